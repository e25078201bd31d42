"""The change rate of each weight by its magnitude, its row and its column.

A logistic model: `logit p(i,j) = key effect + row effect + column effect`, fitted to one run's mask on one
matrix. Log-odds add, so that a weight that surely changes keeps its probability; products of rates would not.

Row and column effects are penalised by `PENALTY / 2` times the sum of their squares (a ridge: a normal prior
of variance 1 / PENALTY), which keeps rows that never or always change finite. Key effects are penalised by a
hair only, so that the fitted rate of every magnitude key is the observed one.

The loops are compiled on first use. They work with odds, `p = t / (1 + t)` for
`t = exp(key) exp(row) exp(column)`, so that no weight costs a transcendental, and hold one row at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, UInt16
from numba import njit

from scramble.errors import ScrambleError

PENALTY, KEY_PENALTY = 0.1, 1e-9
TOLERANCE, MOST_ROUNDS, MOST_STEP = 1e-6, 2000, 2.0
_SURE = 40.0  # log-odds that are 0 or 1 in float64

Vector = Float64[np.ndarray, " n"]
Mask = Bool[np.ndarray, "rows columns"]
Key = UInt16[np.ndarray, "rows columns"]


class NoConvergenceError(ScrambleError):
    """The row and column fit did not reach its optimum."""


@dataclass(frozen=True)
class RowColumnFit:
    """Log-odds of change: `keys[key(i,j)] + rows[i] + columns[j]`.

    Attributes:
        keys: by magnitude key, up to the largest one; 0 where no weight has the key.
        key_information, row_information, column_information: the sum of p(1-p) over the weights that share
            the effect, and its penalty: what the data say of it. Infinite for an effect that is not fitted.
    """

    keys: Float64[np.ndarray, " keys"]
    rows: Float64[np.ndarray, " rows"]
    columns: Float64[np.ndarray, " columns"]
    key_information: Float64[np.ndarray, " keys"]
    row_information: Float64[np.ndarray, " rows"]
    column_information: Float64[np.ndarray, " columns"]

    def rates(self, key: Key) -> Float64[np.ndarray, "rows columns"]:
        """The fitted probability of change of every weight."""
        from scipy.special import expit

        found: Float64[np.ndarray, "rows columns"] = expit(self.keys[key] + self.rows[:, None] + self.columns)
        return found


def row_column_rate(mask: Mask, key: Key) -> Float64[np.ndarray, "rows columns"]:
    """Fitted probabilities of change, see `fit_row_column`."""
    return fit_row_column(mask, key).rates(key)


def fit_row_column(mask: Mask, key: Key) -> RowColumnFit:
    """Fit one run's mask on one matrix.

    The penalised likelihood is concave. A round reads the matrix once: every row takes a Newton step of its
    own, then keys and columns take one together, with their joint curvature (columns eliminated, a system as
    large as the number of keys). It ends where no gradient exceeds `TOLERANCE` a weight.

    A matrix of one row or column, or of none, has no structure of the kind: it keeps its rates by key.

    Args:
        mask: what changed.
        key: magnitude keys.

    Raises:
        NoConvergenceError: not after `MOST_ROUNDS` rounds.
    """
    mask, key = np.ascontiguousarray(mask), np.ascontiguousarray(key)
    size = int(key.max(initial=0)) + 1
    counts, seen, row_sums, column_sums = _totals(mask, key, size)
    used = np.flatnonzero(counts)
    place = np.zeros(size, dtype=np.uint16)
    place[used] = np.arange(len(used))
    counts, seen = counts[used], seen[used]
    effects, rows, columns = _first_effects(seen, counts), np.zeros(len(row_sums)), np.zeros(len(column_sums))
    keys, key_information = np.zeros(size), np.full(size, np.inf)
    if min(mask.shape) <= 1:
        with np.errstate(divide="ignore"):
            keys[used] = np.clip(np.log(seen / (counts - seen)), -_SURE, _SURE)
        key_information[used] = seen * (1 - seen / counts) + KEY_PENALTY
        return RowColumnFit(
            keys, rows, columns, key_information, np.full_like(rows, np.inf), np.full_like(columns, np.inf)
        )
    left, found, by_row, by_column = _climb(
        mask, key, place, counts, seen, row_sums, column_sums, effects, rows, columns
    )
    if not left < TOLERANCE:
        raise NoConvergenceError(
            f"the row and column fit of a {mask.shape} matrix did not converge (residual {left:.1e})"
        )
    keys[used], key_information[used] = effects, found
    return RowColumnFit(keys, rows, columns, key_information, by_row, by_column)


def _first_effects(seen: Vector, counts: Vector) -> Vector:
    """Log-odds of the rates; for keys that never or always changed, near what the hair of penalty allows."""
    rare = np.minimum(seen, counts - seen)
    end = np.log(20 * KEY_PENALTY / counts)
    inner = np.log((seen + 0.5) / (counts - seen + 0.5))
    return np.where(rare > 0, inner, np.where(seen > 0, -end, end))


@njit(nogil=True, cache=True)
def _totals(mask, key, size):  # type: ignore[no-untyped-def]
    rows, columns = mask.shape
    counts, seen = np.zeros(size), np.zeros(size)
    row_sums, column_sums = np.zeros(rows), np.zeros(columns)
    for i in range(rows):
        for j in range(columns):
            counts[key[i, j]] += 1
            if mask[i, j]:
                seen[key[i, j]] += 1
                row_sums[i] += 1
                column_sums[j] += 1
    return counts, seen, row_sums, column_sums


@njit(nogil=True, cache=True)
def _climb(mask, key, place, counts, seen, row_sums, column_sums, effects, rows, columns):  # type: ignore[no-untyped-def]
    """Run rounds on the effects, in place; the largest gradient a weight that is left, and information."""
    n = key.shape[0]
    for _ in range(MOST_ROUNDS):
        largest, key_rest, key_curve, row_curve, rest, curve, cross = _round(
            key, place, effects, rows, columns, row_sums
        )
        key_rest = seen - key_rest - KEY_PENALTY * effects
        rest = column_sums - rest - PENALTY * columns
        largest = max(largest, np.abs(key_rest / counts).max(), np.abs(rest).max() / n)
        key_curve += KEY_PENALTY
        row_curve += PENALTY
        curve += PENALTY
        if largest < TOLERANCE:
            break
        reduced = np.diag(key_curve) - np.dot(cross / curve, cross.T)
        step = np.linalg.solve(reduced, key_rest - np.dot(cross, rest / curve))
        step = np.minimum(np.maximum(step, -MOST_STEP), MOST_STEP)
        move = (rest - np.dot(step, cross)) / curve
        columns += np.minimum(np.maximum(move, -MOST_STEP), MOST_STEP)
        # What rows or columns have in common costs nothing as an effect of all keys. Left to the rounds it
        # would move over slowly, since no block sees it alone.
        effects += step + rows.mean() + columns.mean()
        rows -= rows.mean()
        columns -= columns.mean()
    return largest, key_curve, row_curve, curve


@njit(nogil=True, cache=True)
def _round(key, place, effects, rows, columns, row_sums):  # type: ignore[no-untyped-def]
    """Step every row in place; the largest row gradient a weight, then sums of p and p(1-p) at the new rows.

    By key, of p and p(1-p); by row, of p(1-p); by column, of both; by key and column, of p(1-p).
    """
    n, m = key.shape
    key_odds, column_odds = np.exp(effects)[place], np.exp(columns)
    expected, curvature = np.zeros(len(effects)), np.zeros(len(effects))
    column_expected, column_curvature = np.zeros(m), np.zeros(m)
    row_curvature, cross = np.zeros(n), np.zeros((len(effects), m))
    odds = np.empty(m)
    largest = 0.0
    for i in range(n):
        row_odds = np.exp(rows[i])
        for j in range(m):
            odds[j] = key_odds[key[i, j]] * column_odds[j]
        total, spread = 0.0, 0.0
        for j in range(m):
            p = 1 - 1 / (1 + odds[j] * row_odds)
            total += p
            spread += p * (1 - p)
        gradient = row_sums[i] - total - PENALTY * rows[i]
        largest = max(largest, abs(gradient) / m)
        rows[i] += min(max(gradient / (spread + PENALTY), -MOST_STEP), MOST_STEP)
        row_odds = np.exp(rows[i])
        for j in range(m):
            p = 1 - 1 / (1 + odds[j] * row_odds)
            w = p * (1 - p)
            k = place[key[i, j]]
            expected[k] += p
            curvature[k] += w
            cross[k, j] += w
            column_expected[j] += p
            column_curvature[j] += w
            row_curvature[i] += w
    return largest, expected, curvature, row_curvature, column_expected, column_curvature, cross
