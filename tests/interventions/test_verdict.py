"""The words follow the numbers, whichever way they point."""

from __future__ import annotations

from typing import Any

import pandas as pd

from interventions.verdict import verdict


def table(
    raw: float, aligned: float, home: float = 0.45, chance: float = 0.1, matched: float = 0.44
) -> pd.DataFrame:
    def row(contrast: str, treatment: str, frame: str, jaccard: float) -> dict[str, Any]:
        values = {"jaccard": jaccard, "chance": chance, "magnitude_matched": matched, "pairs": 2}
        return {
            "arm": "other",
            "contrast": contrast,
            "treatment": treatment,
            "frame": frame,
            "same_seed": False,
        } | values

    rows = [row("base x base", t, f, home) for t in ("untreated", "vo-rotation") for f in ("raw", "aligned")]
    rows += [
        row("base x other", "vo-rotation", "raw", raw),
        row("base x other", "vo-rotation", "aligned", aligned),
    ]
    rows.append(row("base x other", "vo-rotation", "raw", 0.99) | {"same_seed": True})
    return pd.DataFrame(rows)


def words(**numbers: float) -> str:
    return " ".join(verdict(table(**numbers), "base", ["other"]))


def test_a_collapse_that_alignment_explains_is_no_evidence() -> None:
    found = words(raw=0.11, aligned=0.43)
    assert "collapses: 0.110, beside 0.450" in found
    assert "0.430, 96% of the overlap" in found
    assert "no evidence" in found


def test_a_collapse_that_survives_alignment_is_reported_as_one() -> None:
    found = words(raw=0.11, aligned=0.12)
    assert "collapses" in found
    assert "remains after relabelling" in found
    assert "no evidence" not in found


def test_no_collapse_is_no_collapse() -> None:
    assert "is mostly kept" in words(raw=0.44, aligned=0.44)
    assert "97% of the overlap above chance is there without" in words(raw=0.44, aligned=0.44)
    assert "falls in part" in words(raw=0.30, aligned=0.44)


def test_the_share_of_magnitude_is_of_what_is_above_chance() -> None:
    assert "0.275: 50% of the overlap above chance" in words(raw=0.1, aligned=0.4, matched=0.275)
    assert "0.100: 0% of the overlap above chance" in words(raw=0.1, aligned=0.4, matched=0.1)


def test_runs_that_do_not_overlap_above_chance_say_nothing_of_a_collapse() -> None:
    found = words(raw=0.1, aligned=0.1, home=0.1)
    assert "nothing for a scramble to take away" in found
    assert "collapses" not in found


def test_an_arm_is_judged_by_what_was_done_to_it() -> None:
    rows = table(0.11, 0.43)
    quiet = table(0.44, 0.44).assign(arm="quiet").replace({"vo-rotation": "head-permutation"})
    quiet["contrast"] = quiet["contrast"].str.replace("other", "quiet")
    lines = verdict(pd.concat([rows, quiet]), "base", ["other", "quiet"])
    assert sum("had vo-rotation" in line for line in lines) == 1
    (line,) = (line for line in lines if "arm 'quiet'" in line)
    assert "head-permutation" in line
    assert "is mostly kept" in line


def test_missing_pairs_are_said_to_be_missing() -> None:
    rest = table(0.1, 0.4)
    alone = rest[rest["contrast"] != "base x base"]
    found = " ".join(verdict(alone, "base", ["other"]))
    assert "no two base runs" in found
    assert "are missing" in found
