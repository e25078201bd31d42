"""The words follow the numbers, whichever way they point, and no number makes them speak of geometry."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scramble.interventions.verdict import CONCLUSION, verdict

NAN = float("nan")


def table(**numbers: Any) -> pd.DataFrame:
    """An experiment's `by_treatment`: base x base alike everywhere, base x other by the numbers."""
    given = {
        **{"raw": 0.11, "aligned": 0.43, "home": 0.45, "chance": 0.1, "matched": 0.44, "rounding": 0.43},
        **{"wrong": (0.42, 0.40, 0.44), "cosine": 0.2, "wrong_cosine": (0.0, -0.02, 0.02), "own_cosine": 0.3},
        **{"errors": 50.0, "placebos": 19},
    } | numbers

    def row(contrast: str, treatment: str, frame: str, jaccard: float, cosine: float) -> dict[str, Any]:
        crossed = contrast != "base x base" and frame == "aligned" and given["placebos"]
        placebos = {
            f"placebo_{name}{end}": value
            for name, values in (("jaccard", given["wrong"]), ("update_cosine", given["wrong_cosine"]))
            for end, value in zip(("", "_least", "_most"), values, strict=True)
        }
        values = {"jaccard": jaccard, "chance": given["chance"], "magnitude_matched": given["matched"]}
        values |= {"rounding_only": given["rounding"], "pairs": 2, "update_cosine": cosine}
        values |= {"above_chance_errors": given["errors"], "placebos": given["placebos"] if crossed else 0}
        values |= placebos if crossed else dict.fromkeys(placebos, NAN)
        labels = {"arm": "other", "contrast": contrast, "treatment": treatment, "frame": frame}
        return labels | {"same_seed": False} | values

    rows = [
        row("base x base", t, f, given["home"], given["own_cosine"])
        for t in ("untreated", "vo-rotation")
        for f in ("raw", "aligned")
    ]
    rows += [
        row("base x other", "vo-rotation", "raw", given["raw"], 0.0),
        row("base x other", "vo-rotation", "aligned", given["aligned"], given["cosine"]),
    ]
    rows.append(row("base x other", "vo-rotation", "raw", 0.99, 0.99) | {"same_seed": True})
    return pd.DataFrame(rows)


def words(**numbers: Any) -> str:
    return " ".join(verdict(table(**numbers), "base", ["other"]))


def test_a_return_that_wrong_alignments_bring_back_too_says_nothing() -> None:
    found = words(aligned=0.43)
    assert "overlap by 0.110 as stored, beside 0.450 between two base runs" in found
    assert (
        "it is 0.430, rounding alone gives 0.430 and 19 wrong elements of the group 0.420 (0.400 to 0.440)"
        in found
    )
    assert "this rise says nothing" in found


def test_an_overlap_above_all_wrong_alignments_is_named_by_its_excess() -> None:
    found = words(aligned=0.50)
    assert "0.080 more than wrong elements give" in found
    assert "says nothing" not in found


def test_a_direction_is_seen_only_above_all_wrong_alignments() -> None:
    assert "have a direction in common that follows the function (by chance in one of 20 cases)" in words()
    assert "0.100 of the cosine of two base runs is missing" in words()
    assert "all of it that two base runs have" in words(cosine=0.31)
    within = words(cosine=0.015)
    assert "so this cosine says nothing" in within
    assert "direction in common" not in within


def test_without_wrong_alignments_nothing_is_concluded() -> None:
    found = words(placebos=0)
    assert "nothing can be concluded" in found
    assert "a value and no finding" in found
    assert "wrong elements" not in found


def test_shares_are_of_what_is_above_chance_and_only_where_they_are_shares() -> None:
    assert "0.275, 50% of what is above chance" in words(matched=0.275)
    assert "0.100, 0% of what is above chance" in words(matched=0.1)
    assert "0.700, so this baseline does not describe these updates" in words(matched=0.7)
    assert "0.020, less than chance" in words(matched=0.02)


@pytest.mark.parametrize("errors", [4.9, -3.0, NAN])
def test_near_chance_there_are_no_shares_and_no_reading(errors: float) -> None:
    found = words(home=0.101, errors=errors)
    assert "not clearly more than chance" in found
    assert "%" not in found
    assert "as stored" not in found


numbers = st.floats(-1, 1)


@given(
    **{name: st.floats(0, 1) for name in ("raw", "aligned", "home", "chance", "matched", "rounding")},
    wrong=st.tuples(*[st.floats(0, 1)] * 3).map(sorted),
    cosines=st.tuples(numbers, numbers),
    errors=st.floats(-1e3, 1e5),
)
def test_no_number_makes_it_conclude_about_geometry_or_print_a_share_that_is_none(
    raw: float,
    aligned: float,
    home: float,
    chance: float,
    matched: float,
    rounding: float,
    wrong: list[float],
    cosines: tuple[float, float],
    errors: float,
) -> None:
    least, middle, most = wrong
    lines = verdict(
        table(
            **{"raw": raw, "aligned": aligned, "home": home, "chance": chance, "matched": matched},
            **{"rounding": rounding, "wrong": (middle, least, most), "cosine": cosines[0]},
            **{"own_cosine": cosines[1], "errors": errors},
        ),
        "base",
        ["other"],
    )
    assert lines[-1] == CONCLUSION
    assert not any("geometry" in line for line in lines[:-1])
    shares = [int(word.rstrip("%,")) for word in " ".join(lines).split() if word.rstrip(",").endswith("%")]
    assert all(-10 <= share <= 110 for share in shares)


def test_an_arm_is_judged_by_what_was_done_to_it() -> None:
    rows = table()
    quiet = table(aligned=0.5).assign(arm="quiet").replace({"vo-rotation": "head-permutation"})
    quiet["contrast"] = quiet["contrast"].str.replace("other", "quiet")
    lines = verdict(pd.concat([rows, quiet]), "base", ["other", "quiet"])
    assert sum("had vo-rotation" in line for line in lines) == 1
    (line,) = (line for line in lines if "arm 'quiet'" in line)
    assert "head-permutation" in line


def test_missing_pairs_are_said_to_be_missing() -> None:
    rest = table()
    alone = rest[rest["contrast"] != "base x base"]
    found = " ".join(verdict(alone, "base", ["other"]))
    assert "no two base runs" in found
    assert "are missing" in found
