"""Counts that add up: what one tensor contributes to a run's, or to a pair's, figures.

Every figure that is reported is a ratio of sums. Tensors are counted (`joint`), counts are
summed over a module, a layer or a model, and the ratios are formed last (`ratios`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float64, UInt16

from scramble.measures.pairs.masks import changed, magnitude_key
from scramble.measures.pairs.streams import Update
from scramble.measures.updates.joint import Joint

if TYPE_CHECKING:
    from scramble.measures.updates.coordinate import FittedRun

NAN = float("nan")


@dataclass(frozen=True)
class UpdateCounts:
    """One tensor of one run. Norms are squared, of float32 values summed in float64."""

    n: int
    changed: int
    non_finite: int
    update_square: float
    start_square: float


@dataclass(frozen=True)
class PairCounts:
    """One tensor of two runs.

    Attributes:
        both: weights that both runs changed.
        chance: expected `both` if each run's changes were spread evenly over the tensor.
        magnitude_matched: expected `both` if each run kept its own change rate for each magnitude key.
        rounding_only*: expected `both`, and expected changes of each run, if every weight drew an update of
            the run's own sizes, and bf16 storage let through what exceeds its threshold. NaN for bf16 ends,
            whose updates rounding has passed already.
        chance_variance: of `both` under chance.
        mask_*: (co)variances of the two masks within the tensor, times n.
        dot, square_*: of the float32 updates.
        rank_*: (co)variances of the ranks of |update| within the tensor, ranks in [0, 1], times n. NaN for
            bf16 ends, where most updates tie at zero.
        signed, same_sign: weights with two non-zero updates, and those whose signs agree.
        non_finite: stored words of either run's ends that are infinite or NaN; they have no update.
    """

    n: int
    changed_a: int
    changed_b: int
    both: int
    chance: float
    magnitude_matched: float
    rounding_only: float
    rounding_only_a: float
    rounding_only_b: float
    chance_variance: float
    mask_covariance: float
    mask_variance_a: float
    mask_variance_b: float
    dot: float
    square_a: float
    square_b: float
    rank_covariance: float
    rank_variance_a: float
    rank_variance_b: float
    signed: int
    same_sign: int
    non_finite: int


def update_counts(joint: Joint, run: int = 0) -> UpdateCounts:
    """One run's part of a tensor."""
    start = joint.which[run]
    return UpdateCounts(
        n=joint.n,
        changed=int(joint.both[run, run]),
        non_finite=int(joint.non_finite[run] + joint.start_non_finite[start]),
        update_square=float(joint.dots[run, run]),
        start_square=float(joint.squares[start]),
    )


def pair_counts(joint: Joint, a: int = 0, b: int = 1) -> PairCounts:
    """Two runs' part of a tensor."""
    n, masks = joint.n, joint.both
    both, changed_a, changed_b = int(masks[a, b]), int(masks[a, a]), int(masks[b, b])
    chance = changed_a * changed_b / n if n else 0.0
    spread_a, spread_b = ((one * (1 - one / n) if n else 0.0) for one in (changed_a, changed_b))
    fine = joint.fine[a] and joint.fine[b]
    starts = {joint.which[a], joint.which[b]}
    return PairCounts(
        n=n,
        changed_a=changed_a,
        changed_b=changed_b,
        both=both,
        chance=chance,
        magnitude_matched=float(joint.matched[a, b]),
        rounding_only=float(joint.passing[a, b]) if fine else NAN,
        rounding_only_a=float(joint.passing_sums[a]) if fine else NAN,
        rounding_only_b=float(joint.passing_sums[b]) if fine else NAN,
        chance_variance=spread_a * spread_b / n if n else 0.0,
        mask_covariance=both - chance,
        mask_variance_a=spread_a,
        mask_variance_b=spread_b,
        dot=float(joint.dots[a, b]),
        square_a=float(joint.dots[a, a]),
        square_b=float(joint.dots[b, b]),
        rank_covariance=float(joint.rank_dots[a, b]) if fine else NAN,
        rank_variance_a=float(joint.rank_dots[a, a]) if fine else NAN,
        rank_variance_b=float(joint.rank_dots[b, b]) if fine else NAN,
        signed=int(joint.signed[a, b]),
        same_sign=int(joint.same_sign[a, b]),
        non_finite=int(joint.non_finite[[a, b]].sum() + sum(joint.start_non_finite[s] for s in starts)),
    )


@dataclass(frozen=True)
class Matched:
    """One run's mask on a tensor, with the magnitude key of each weight and the change rate of each key."""

    mask: Bool[np.ndarray, " n"]
    key: UInt16[np.ndarray, " n"]
    rate: Float64[np.ndarray, " keys"]


def matched(update: Update, eta: float = 0.0) -> Matched:
    """Key by key, how often a run changed a weight of that magnitude."""
    mask, key = changed(update.start, update.end, eta).reshape(-1), magnitude_key(update.start, update.values)
    there = np.bincount(key.reshape(-1))
    moved = np.bincount(key.reshape(-1)[mask], minlength=len(there))
    return Matched(mask, key.reshape(-1), moved / np.maximum(there, 1))


def fitted(update: Update, eta: float = 0.0) -> FittedRun:
    """The fit of a run's mask to magnitude, row and column; vectors keep their rates by magnitude."""
    from scramble.measures.updates.coordinate import FittedRun
    from scramble.measures.updates.row_column import fit_row_column

    found = matched(update, eta)
    columns = update.start.shape[-1] if update.start.ndim > 1 and update.start.size else found.mask.size
    columns = max(columns, 1)
    mask, key = found.mask.reshape(-1, columns), found.key.reshape(-1, columns)
    return FittedRun(mask, key, fit_row_column(mask, key))
