"""Whether rows (or columns) of a mask differ by more than sampling alone would make them.

The stripe score is an over-dispersion index: the sum over rows of (changes - expected changes)^2, over the
sum of the variances that the null gives them. Null: weights of one class change independently and with one
probability; a class is the whole matrix (`chance`) or a magnitude key (`magnitude_matched`). The
probabilities are not known but fitted, so everything is taken given the number of changes in each class:
changes are then spread over a class's weights at random, row counts are multivariate hypergeometric, and the
score's mean is 1 exactly. Its variance is that of normal row counts with their exact covariances, and the
fourth cumulant of independent weights less what the classes' totals explain of it. The p-value is the upper
tail of the scaled chi-square with this mean and variance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64


@dataclass(frozen=True)
class Stripes:
    """What one matrix contributes; sums over matrices pool.

    Attributes:
        lines: rows, or columns.
        excess: sum of squared differences between changes and expected changes.
        expected: `excess` under the null.
        spread: variance of `excess` under the null.
        beyond: sum over lines of (squared difference - its null mean) in squared rates.
    """

    lines: int
    excess: float
    expected: float
    spread: float
    beyond: float


def expected_changes(
    held: Int64[np.ndarray, "lines classes"], moved: Int64[np.ndarray, " classes"]
) -> Float64[np.ndarray, " lines"]:
    """Changes in each line under the null."""
    found: Float64[np.ndarray, " lines"] = held @ _rate(held, moved)
    return found


def stripes(
    changes: Int64[np.ndarray, " lines"],
    held: Int64[np.ndarray, "lines classes"],
    moved: Int64[np.ndarray, " classes"],
) -> Stripes:
    """The sums behind the stripe score.

    Args:
        changes: in each line.
        held: weights of each class in each line.
        moved: changes in each class.
    """
    size = held.sum(axis=0).astype(np.float64)
    p = _rate(held, moved)
    each = p * (1 - p)
    # Covariance of lines a, b: sum over classes of scale * (held_a * size * [a = b] - held_a * held_b).
    scale = np.divide(each, size - 1, out=np.zeros_like(size), where=size > 1)
    own = held @ (scale * size)
    shared = held * np.sqrt(scale)
    squares = (shared**2).sum(axis=1)
    variance = own - squares
    gram = shared.T @ shared
    # The trace of the squared covariance, without the lines x lines matrix.
    trace = float(own @ own - 2 * own @ squares + (gram**2).sum())
    # Of a weight with variance v: fourth cumulant v(1 - 6v); its total's regression explains v(1 - 4v).
    fourth = -2 * float(size @ each**2)
    square = (changes - held @ p) ** 2
    length = held.sum(axis=1).astype(np.float64)
    return Stripes(
        lines=len(changes),
        excess=float(square.sum()),
        expected=float(variance.sum()),
        spread=max(2 * trace + fourth, 0.0),
        beyond=float(((square - variance) / length**2).sum()),
    )


def upper_tail(excess: float, expected: float, spread: float) -> float:
    """The p-value of pooled sums; NaN where the null leaves nothing to chance."""
    from scipy.stats import chi2

    if not (expected > 0 and spread > 0):
        return float("nan")
    return float(chi2.sf(2 * expected * excess / spread, 2 * expected**2 / spread))


def _rate(
    held: Int64[np.ndarray, "lines classes"], moved: Int64[np.ndarray, " classes"]
) -> Float64[np.ndarray, " classes"]:
    size = held.sum(axis=0)
    return np.divide(moved, size, out=np.zeros(len(size)), where=size > 0)
