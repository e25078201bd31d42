"""Counts that add up: what one tensor contributes to a run's, or to a pair's, figures.

Every figure that is reported is a ratio of sums. Tensors are counted here, counts are summed over a module,
a layer or a model, and the ratios are formed last (`scramble.updates.ratios`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt16

from scramble.checkpoints.storage import bf16_to_float32
from scramble.updates.ends import Update
from scramble.updates.masks import KEYS, changed, magnitude_key, non_finite

_RANK_SHIFT = 12


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
        magnitude_matched: NaN if a start is off the bf16 grid, where a key does not fix the threshold; else
            expected `both` if each run kept its own change rate for each magnitude key.
        rounding_only*: expected `both`, and expected changes of each run, if every weight drew an update of
            the run's own sizes, and bf16 storage let through what exceeds its threshold. NaN off the bf16
            grid, and for bf16 ends, whose updates rounding has passed already.
        row_column_matched*: the same under the row and column fit, and the variance of `both` there, weights
            being independent. NaN where it was not asked for.
        chance_variance: of `both` under chance.
        mask_*: (co)variances of the two masks within the tensor, times n.
        dot, square_*: of the float32 updates.
        rank_*: (co)variances of the ranks of |update| within the tensor, ranks in [0, 1], times n.
        signed, same_sign: weights with two non-zero updates, and those whose signs agree.
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
    row_column_matched: float
    row_column_matched_a: float
    row_column_matched_b: float
    row_column_matched_variance: float
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


@dataclass(frozen=True)
class Side:
    """What a pair needs to know of one run's tensor, computed once a run."""

    update: Update
    mask: Bool[np.ndarray, " n"]
    key: np.ndarray[tuple[int], np.dtype[np.uint16]]
    keys: Float64[np.ndarray, " keys"]
    rate: Float64[np.ndarray, " keys"]
    delta: Float32[np.ndarray, " n"]
    ranks: Float32[np.ndarray, " n"]
    passing: Float64[np.ndarray, " n"] | None
    fitted: Float64[np.ndarray, " n"] | None = None


def side(update: Update, *, row_column: bool = False) -> Side:
    """Mask, magnitude keys, change rate by key, and ranks of one run's tensor.

    Args:
        row_column: fit change rates by row and column too; vectors keep their rates by key.
    """
    mask = changed(update.start, update.end).reshape(-1)
    key = magnitude_key(update.start).reshape(-1)
    keys = np.bincount(key, minlength=KEYS).astype(np.float64)
    moved = np.bincount(key[mask], minlength=KEYS)
    rate = np.divide(moved, keys, out=np.zeros(KEYS), where=keys > 0)
    delta = update.delta.reshape(-1)
    passing = passing_rate(update.start.reshape(-1), delta) if update.on_grid and update.fine else None
    fitted = None
    if row_column and update.on_grid:
        fitted = rate[key]
        if update.start.ndim > 1:
            from scramble.updates.row_column import row_column_rate

            columns = update.start.shape[-1]
            fitted = row_column_rate(mask.reshape(-1, columns), key.reshape(-1, columns)).reshape(-1)
    return Side(update, mask, key, keys, rate, delta, ranks(delta), passing, fitted)


def ranks(delta: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
    """Centred ranks of |delta| in [-1/2, 1/2]; |delta| keeps 12 significand bits, ties share their mean rank.

    Positive floats sort as their bits do, so a histogram of the upper bits ranks without sorting.
    """
    bins = (np.abs(delta).view(np.uint32) >> _RANK_SHIFT).astype(np.intp)
    counts = np.bincount(bins)
    upto = np.cumsum(counts)
    middle: Float32[np.ndarray, " bins"] = ((upto - counts / 2) / len(delta) - 0.5).astype(np.float32)
    return middle[bins]


def passing_rate(
    start: UInt16[np.ndarray, " n"], delta: Float32[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """For each weight, the share of the tensor's |updates| that would change its stored bf16 value.

    What exceeds half an ULP of the weight does; from a power of two towards zero, a quarter. Thresholds are
    powers of two, so a histogram of exponents counts exactly what lies above each.
    """
    exponent = (start >> 7).astype(np.int64) & 0xFF
    sign = np.where(start >> 15, -1.0, 1.0)
    narrow = ((start & 0x7F) == 0) & (exponent > 1) & (sign * delta < 0)
    threshold = np.maximum(exponent, 1) - 127 - 8 - narrow
    low, high = int(threshold.min()), int(threshold.max())
    size = np.abs(delta)
    bits = size.view(np.uint32)
    # Above 2^k lies what has a larger exponent, and what has this one and is not the power itself.
    field = (bits >> 23).astype(np.int64) - ((bits & 0x7FFFFF) == 0)
    above = len(delta) - np.cumsum(np.bincount(np.maximum(field, 0), minlength=256))
    shares = np.empty(high - low + 1)
    for k in range(low, high + 1):
        normal = 0 <= k + 126 < 256
        shares[k - low] = above[k + 126] if normal else np.count_nonzero(size > np.ldexp(1.0, k))
    return shares[threshold - low] / len(delta)


def update_counts(update: Update) -> UpdateCounts:
    """Count one tensor of one run."""
    words = update.start
    values = bf16_to_float32(words)
    return UpdateCounts(
        n=words.size,
        changed=int(np.count_nonzero(changed(words, update.end))),
        non_finite=non_finite(words) + non_finite(update.end),
        update_square=_dot(update.delta, update.delta),
        start_square=_dot(values, values),
    )


def pair_counts(a: Side, b: Side) -> PairCounts:
    """Count one tensor of two runs."""
    n, both = len(a.mask), int(np.count_nonzero(a.mask & b.mask))
    changed_a, changed_b = int(np.count_nonzero(a.mask)), int(np.count_nonzero(b.mask))
    if not (a.update.on_grid and b.update.on_grid):
        matched = float("nan")
    elif np.array_equal(a.key, b.key):
        matched = float(a.keys @ (a.rate * b.rate))
    else:
        joint = np.bincount(a.key.astype(np.intp) * KEYS + b.key, minlength=KEYS * KEYS)
        matched = float(a.rate @ joint.reshape(KEYS, KEYS) @ b.rate)
    chance = changed_a * changed_b / n
    rounding = [float("nan")] * 3
    if a.passing is not None and b.passing is not None:
        rounding = [float(a.passing @ b.passing), float(a.passing.sum()), float(b.passing.sum())]
    fit = [float("nan")] * 4
    if a.fitted is not None and b.fitted is not None:
        spread = float((a.fitted * (1 - a.fitted)) @ (b.fitted * (1 - b.fitted)))
        fit = [float(a.fitted @ b.fitted), float(a.fitted.sum()), float(b.fitted.sum()), spread]
    signed = (a.delta != 0) & (b.delta != 0)
    return PairCounts(
        n=n,
        changed_a=changed_a,
        changed_b=changed_b,
        both=both,
        chance=chance,
        magnitude_matched=matched,
        rounding_only=rounding[0],
        rounding_only_a=rounding[1],
        rounding_only_b=rounding[2],
        row_column_matched=fit[0],
        row_column_matched_a=fit[1],
        row_column_matched_b=fit[2],
        row_column_matched_variance=fit[3],
        chance_variance=changed_a * (1 - changed_a / n) * changed_b * (1 - changed_b / n) / n,
        mask_covariance=both - chance,
        mask_variance_a=changed_a * (1 - changed_a / n),
        mask_variance_b=changed_b * (1 - changed_b / n),
        dot=_dot(a.delta, b.delta),
        square_a=_dot(a.delta, a.delta),
        square_b=_dot(b.delta, b.delta),
        rank_covariance=_dot(a.ranks, b.ranks),
        rank_variance_a=_dot(a.ranks, a.ranks),
        rank_variance_b=_dot(b.ranks, b.ranks),
        signed=int(np.count_nonzero(signed)),
        same_sign=int(np.count_nonzero(signed & ((a.delta > 0) == (b.delta > 0)))),
    )


def _dot(a: Float32[np.ndarray, ...], b: Float32[np.ndarray, ...]) -> float:
    """Inner product, summed in float64 by blocks."""
    a, b = a.reshape(-1), b.reshape(-1)
    block = 1 << 16
    return float(
        sum(
            np.dot(a[at : at + block].astype(np.float64), b[at : at + block].astype(np.float64))
            for at in range(0, len(a), block)
        )
    )
