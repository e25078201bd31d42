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
    """Sentences, the untreated weights first, then every treatment of every scrambled arm."""
    return [*_untreated(table, base), *(line for arm in arms for line in _treated(table, base, arm))]


def _untreated(table: pd.DataFrame, base: str) -> Iterator[str]:
    found = cell(table, f"{base} x {base}", UNTREATED, "raw")
    if found is None:
        yield "There are no two base runs with different seeds to compare the scrambled runs with."
        return
    above = found.jaccard - found.chance
    yield (
        f"In untreated layers two {base} runs change the same weights: their Jaccard overlap is "
        f"{found.jaccard:.3f}, and {found.chance:.3f} would be chance ({_pairs(found)})."
    )
    if above > 0:
        share = (found.magnitude_matched - found.chance) / above
        yield (
            "A baseline that knows only how large each weight is and how bf16 rounds predicts "
            f"{found.magnitude_matched:.3f}, which is {share:.0%} of the overlap above chance."
        )


def _treated(table: pd.DataFrame, base: str, arm: str) -> Iterator[str]:
    treatments = [name for name in dict.fromkeys(table["treatment"]) if name not in (UNTREATED, OUTSIDE)]
    for treatment in treatments:
        home = cell(table, f"{base} x {base}", treatment, "raw")
        raw = cell(table, f"{base} x {arm}", treatment, "raw") or cell(
            table, f"{arm} x {base}", treatment, "raw"
        )
        back = cell(table, f"{base} x {arm}", treatment, "aligned") or cell(
            table, f"{arm} x {base}", treatment, "aligned"
        )
        if home is None or raw is None or back is None or home.jaccard <= home.chance:
            yield f"{treatment}: the runs that would be compared are missing, or do not overlap above chance."
            continue
        left = (raw.jaccard - raw.chance) / (home.jaccard - home.chance)
        restored = back.jaccard / home.jaccard
        word = "collapses" if left < COLLAPSED else "is kept" if left >= KEPT else "falls in part"
        yield (
            f"Where '{treatment}' acted, the overlap of {base} and {arm} runs {word}: {raw.jaccard:.3f}, "
            f"beside {home.jaccard:.3f} between two {base} runs; chance is {raw.chance:.3f}, "
            f"magnitude and rounding alone give {raw.magnitude_matched:.3f} ({_pairs(raw)})."
        )
        yield (
            f"With the scramble undone before comparing it is {back.jaccard:.3f}, {restored:.0%} of the "
            f"overlap of two {base} runs. {_reading(left, restored)}"
        )


def _reading(left: float, restored: float) -> str:
    if left >= KEPT:
        return "The scramble did not change which weights move here."
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
