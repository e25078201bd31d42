"""What the contrasts say, in plain words. Every number comes from the tables; no side is taken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from interventions.contrast import OUTSIDE, UNTREATED

# Shares of the base x base overlap above chance: below a quarter is called a collapse, from three quarters
# on it is called kept. "Restored" is a share of the overlap itself.
COLLAPSED, KEPT, RESTORED = 0.25, 0.75, 0.85


@dataclass(frozen=True)
class Cell:
    """One contrast in one treatment and frame."""

    jaccard: float
    chance: float
    magnitude_matched: float
    pairs: int


def cell(table: pd.DataFrame, contrast: str, treatment: str, frame: str) -> Cell | None:
    """Look up pairs with different seeds in `by_treatment`."""
    found = table[
        (table["contrast"] == contrast)
        & (table["treatment"] == treatment)
        & (table["frame"] == frame)
        & ~table["same_seed"].astype(bool)
    ]
    if found.empty:
        return None
    row = found.iloc[0]
    return Cell(row["jaccard"], row["chance"], row["magnitude_matched"], int(row["pairs"]))


def verdict(table: pd.DataFrame, base: str, arms: list[str]) -> list[str]:
    """Sentences: what untreated weights do, then every treatment of every scrambled arm."""
    lines = [*_untreated(table[table["arm"] == (arms or [base])[0]], base)]
    for arm in arms:
        lines += _treated(table[table["arm"] == arm], base, arm)
    return lines


def _untreated(table: pd.DataFrame, base: str) -> Iterator[str]:
    found = cell(table, f"{base} x {base}", UNTREATED, "raw")
    if found is None:
        yield "There are no two base runs with different seeds to compare the scrambled runs with."
        return
    above = found.jaccard - found.chance
    yield (
        f"Two {base} runs overlap by {found.jaccard:.3f} (Jaccard) in untreated weights; "
        f"{found.chance:.3f} would be chance ({_pairs(found)})."
    )
    if above <= 0:
        yield "That is no more than chance, so there is nothing for a scramble to take away."
    else:
        share = (found.magnitude_matched - found.chance) / above
        yield (
            "If each run changed weights at its own rate for their magnitude, blind to everything else, "
            f"it would be {found.magnitude_matched:.3f}: {share:.0%} of the overlap above chance."
        )


def _treated(table: pd.DataFrame, base: str, arm: str) -> Iterator[str]:
    treatments = [name for name in dict.fromkeys(table["treatment"]) if name not in (UNTREATED, OUTSIDE)]
    for treatment in treatments:
        where = f"Where arm '{arm}' had {treatment}"
        home = cell(table, f"{base} x {base}", treatment, "raw")
        crossed = f"{base} x {arm}" if f"{base} x {arm}" in set(table["contrast"]) else f"{arm} x {base}"
        raw, back = (cell(table, crossed, treatment, frame) for frame in ("raw", "aligned"))
        if home is None or raw is None or back is None:
            yield f"{where}, the runs that would be compared are missing."
            continue
        if home.jaccard <= home.chance:
            yield f"{where}, two {base} runs overlap no more than chance: nothing to compare with."
            continue
        left = (raw.jaccard - raw.chance) / (home.jaccard - home.chance)
        restored = back.jaccard / home.jaccard
        word = "collapses" if left < COLLAPSED else "is mostly kept" if left >= KEPT else "falls in part"
        yield (
            f"{where}, the overlap of {base} and {arm} runs {word}: {raw.jaccard:.3f}, beside "
            f"{home.jaccard:.3f} between two {base} runs; chance is {raw.chance:.3f}, the change rates by "
            f"magnitude give {raw.magnitude_matched:.3f} ({_pairs(raw)})."
        )
        yield (
            f"With the scramble undone before comparing it is {back.jaccard:.3f}, {restored:.0%} of the "
            f"overlap of two {base} runs. {_reading(left, restored)}"
        )


def _reading(left: float, restored: float) -> str:
    if left >= KEPT:
        return f"{left:.0%} of the overlap above chance is there without undoing anything."
    if restored >= RESTORED:
        return (
            "So the fall is what relabelling the coordinates does by construction; it is no evidence that "
            "the geometry steers the update."
        )
    return (
        "So part of the fall remains after relabelling is taken out: the scrambled model moves other "
        "weights, because of its geometry or because the optimizer sees another basis."
    )


def _pairs(found: Cell) -> str:
    return "one pair of runs" if found.pairs == 1 else f"mean of {found.pairs} pairs of runs"
