"""Ratios from summed counts: the reported figures, under the field's names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from scramble.measures.pairs.pooling import places_in

NORMAL_95 = 1.96
ENOUGH_ERRORS = 5.0
"""Standard errors by which an overlap must exceed chance before anything is called a share of the excess."""
_SHARE = (-0.1, 1.1)


def update_ratios(counts: pd.DataFrame) -> pd.DataFrame:
    """Sparsity, and the update's norm relative to the weights'."""
    found = counts[["level", *places_in(counts), "n", "changed"]].copy()
    found["sparsity"] = 1 - counts["changed"] / counts["n"]
    found["relative_update_norm"] = np.sqrt(_ratio(counts["update_square"], counts["start_square"]))
    found["non_finite"] = counts["non_finite"]
    return found


def pair_ratios(counts: pd.DataFrame) -> pd.DataFrame:
    """Overlap of two runs' updates and its baselines (arXiv 2511.08567, 2.2 and 4.2; controls: ours).

    `chance`, `rounding_only` and `magnitude_matched` are the Jaccard overlaps expected under those baselines;
    `jaccard_above_chance` and `jaccard_above_magnitude_matched` are `(J - b) / (1 - b)`. Where nothing
    changed, a ratio does not exist and is NaN.
    """
    c = counts
    found = c[["level", *places_in(c), "run_a", "run_b", "same_seed", "frame", "n"]].copy()
    total = c["changed_a"] + c["changed_b"]
    found["density_a"], found["density_b"] = c["changed_a"] / c["n"], c["changed_b"] / c["n"]
    found["jaccard"] = _ratio(c["both"], total - c["both"])
    found["overlap_a"], found["overlap_b"] = (
        _ratio(c["both"], c["changed_a"]),
        _ratio(c["both"], c["changed_b"]),
    )
    expected = {"chance": total, "rounding_only": c["rounding_only_a"] + c["rounding_only_b"]}
    expected["magnitude_matched"] = total
    if "row_column_matched" in c:
        expected["row_column_matched"] = c["row_column_matched_a"] + c["row_column_matched_b"]
    for baseline, changes in expected.items():
        found[baseline] = _ratio(c[baseline], changes - c[baseline])
    for baseline in expected:
        found[f"jaccard_above_{baseline}"] = _ratio(found["jaccard"] - found[baseline], 1 - found[baseline])
    for name, top, a, b in (
        ("phi", "mask_covariance", "mask_variance_a", "mask_variance_b"),
        ("update_cosine", "dot", "square_a", "square_b"),
        ("update_rank_correlation", "rank_covariance", "rank_variance_a", "rank_variance_b"),
    ):
        found[name] = _ratio(c[top], np.sqrt(c[a] * c[b]))
    found["sign_agreement"] = _ratio(c["same_sign"], c["signed"])
    found["non_finite"] = c["non_finite"]
    return found


def decomposition(counts: pd.DataFrame) -> pd.DataFrame:
    """The overlap above chance, in weights, and the part of each baseline in it.

    `above_chance` is observed minus expected intersection; `rounding`, `magnitude`, `row_column` are what
    each baseline adds to the one before it, and `coordinate` is what none explains, the candidate for
    steering. From bf16 ends rounding and magnitude are one part, under `magnitude`. Shares are given where
    `above_chance` exceeds five standard errors and no part is below -10 % or above 110 % of it by more than
    five of these errors. Beyond that a baseline expects more overlap than there is, so that it does not
    describe the updates, and nothing is a share of anything: the parts stand in weights alone.

    `coordinate_low` and `_high` are a 95 % interval in weights, `coordinate_share_low` and `_high` one of
    the share: all shares `t` for which `coordinate - t above_chance` is within 1.96 of its standard errors
    of zero (Fieller, Journal of the Royal Statistical Society B 1954), so that it holds zero just when the
    other does. Both take weights as independent given the fits (`coordinate`): too narrow
    where updates of neighbours are correlated, for which see `resampling`.
    """
    c = counts
    found = c[["level", *places_in(c), "run_a", "run_b", "same_seed", "frame", "n"]].copy()
    found["above_chance"] = c["both"] - c["chance"]
    known = c["rounding_only"].notna()
    found["rounding"] = c["rounding_only"] - c["chance"]
    found["magnitude"] = c["magnitude_matched"] - c["rounding_only"].where(known, c["chance"])
    found["row_column"] = c["row_column_matched"] - c["magnitude_matched"]
    found["coordinate"] = c["both"] - c["row_column_matched"]
    margin = NORMAL_95 * np.sqrt(c["row_column_matched_variance"])
    found["coordinate_low"], found["coordinate_high"] = (
        found["coordinate"] - margin,
        found["coordinate"] + margin,
    )
    enough = found["above_chance"] > ENOUGH_ERRORS * np.sqrt(c["chance_variance"])
    names = ["rounding", "magnitude", "row_column", "coordinate"]
    apart = found[names].div(found["above_chance"].where(enough), axis=0)
    slack = ENOUGH_ERRORS * np.sqrt(c["chance_variance"]) / found["above_chance"].where(enough)
    shares = apart.apply(lambda part: part.isna() | is_share(part, slack))
    whole = found["above_chance"].where(enough & shares.all(axis=1))
    for part in names:
        found[f"{part}_share"] = found[part] / whole
    # The roots of (C - t A)^2 = z^2 Var(C - t A).
    square = NORMAL_95**2
    first = whole**2 - square * c["above_chance_variance"]
    middle = found["coordinate"] * whole - square * c["row_column_matched_covariance"]
    last = found["coordinate"] ** 2 - margin**2
    root = np.sqrt((middle**2 - first * last).clip(lower=0))
    first = first.where(first > 0)
    found["coordinate_share_low"], found["coordinate_share_high"] = (
        (middle - root) / first,
        (middle + root) / first,
    )
    return found


def is_share(value: Any, slack: Any = 0.0) -> Any:
    """Whether a ratio, or each of several, can be read as a share of a whole, up to an error."""
    return (value >= _SHARE[0] - slack) & (value <= _SHARE[1] + slack)


def _ratio(top: pd.Series, bottom: pd.Series) -> pd.Series:
    return top.where(bottom > 0, np.nan) / bottom.where(bottom > 0, np.nan)
