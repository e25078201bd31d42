"""The change rate of each weight by its magnitude, its row and its column.

A logistic model: `logit p(i,j) = key effect + row effect + column effect`, fitted to one run's mask on one
matrix. Log-odds add, so that a weight that surely changes keeps its probability; products of rates would not.

Row and column effects are penalised by `PENALTY / 2` times the sum of their squares (a ridge: a normal prior
of variance 1 / PENALTY), which keeps rows that never or always change finite. Key effects are penalised by a
hair only, so that the fitted rate of every magnitude key is the observed one.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64, UInt16
from scipy.special import expit, logit

from scramble.errors import ScrambleError

PENALTY, KEY_PENALTY = 0.5, 1e-9
TOLERANCE, MOST_ROUNDS, MOST_STEP = 1e-6, 200, 2.0


Vector = Float64[np.ndarray, " n"]


class NoConvergenceError(ScrambleError):
    """The row and column fit did not reach its optimum."""


def row_column_rate(
    mask: Bool[np.ndarray, "rows columns"], key: UInt16[np.ndarray, "rows columns"]
) -> Float64[np.ndarray, "rows columns"]:
    """Fitted probabilities of change.

    The penalised likelihood is concave. Each round takes a Newton step in the keys, the rows and the columns
    in turn, with the curvature of that block, and ends where no gradient exceeds `TOLERANCE` a weight.

    Raises:
        NoConvergenceError: not after `MOST_ROUNDS` rounds.
    """
    used, index = np.unique(key, return_inverse=True)
    index = index.reshape(key.shape)
    counts = np.bincount(index.ravel(), minlength=len(used))
    seen = np.bincount(index.ravel(), weights=mask.ravel(), minlength=len(used))
    effects = logit((seen + 0.5) / (counts + 1.0))
    rows, columns = np.zeros(mask.shape[0]), np.zeros(mask.shape[1])
    row_sums, column_sums = mask.sum(axis=1), mask.sum(axis=0)

    def rates() -> Float64[np.ndarray, "rows columns"]:
        found: Float64[np.ndarray, "rows columns"] = expit(effects[index] + rows[:, None] + columns)
        return found

    for _ in range(MOST_ROUNDS):
        p = rates()
        w = p * (1 - p)
        flat = index.ravel()
        gradient = seen - np.bincount(flat, weights=p.ravel(), minlength=len(used)) - KEY_PENALTY * effects
        largest = np.abs(gradient / counts).max()
        curvature = np.bincount(flat, weights=w.ravel(), minlength=len(used)) + KEY_PENALTY
        effects = effects + _step(gradient, curvature)

        p = rates()
        gradient = row_sums - p.sum(axis=1) - PENALTY * rows
        largest = max(largest, np.abs(gradient).max() / mask.shape[1])
        rows = rows + _step(gradient, (p * (1 - p)).sum(axis=1) + PENALTY)

        p = rates()
        gradient = column_sums - p.sum(axis=0) - PENALTY * columns
        largest = max(largest, np.abs(gradient).max() / mask.shape[0])
        columns = columns + _step(gradient, (p * (1 - p)).sum(axis=0) + PENALTY)
        # What rows or columns have in common costs nothing as an effect of all keys. Left to the rounds it
        # would move over slowly, since no block sees it alone.
        effects = effects + rows.mean() + columns.mean()
        rows, columns = rows - rows.mean(), columns - columns.mean()
        if largest < TOLERANCE:
            return rates()
    raise NoConvergenceError(f"the row and column fit of a {mask.shape} matrix stands at {largest:.1e}")


def _step(
    gradient: Float64[np.ndarray, " n"], curvature: Float64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """A Newton step, cut where the logistic curve is so flat that it would overshoot."""
    return np.clip(gradient / curvature, -MOST_STEP, MOST_STEP)
