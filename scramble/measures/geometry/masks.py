"""Masks of one weight: principal, low-magnitude, safe, and what they are compared to.

arXiv 2511.08567, 4.2 and 5.1. Every mask of a share `alpha` has exactly `round(alpha * n)` entries; where
entries tie at the threshold, as bf16 magnitudes do in thousands, those earlier in row-major order are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from scramble.measures.geometry.reconstruction import Factors, fast_factors, full_factors
from scramble.symmetries.draws import generator

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64

MASKS = ("principal", "low_magnitude", "safe", "complement", "principal_not_low", "random")


def principal_masks(
    weight: Float64[np.ndarray, "rows columns"], rank: int, alphas: Sequence[float]
) -> list[Bool[np.ndarray, "rows columns"]]:
    """The top-alpha shares of `principal_scores`, one mask for each of `alphas`."""
    values = principal_scores(weight, rank, alphas)
    return [largest(values, count_of(alpha, values.size)) for alpha in alphas]


def principal_scores(
    weight: Float64[np.ndarray, "rows columns"], rank: int, alphas: Sequence[float]
) -> Float64[np.ndarray, "rows columns"]:
    """`|rank-k SVD reconstruction|`, fit to take the top-alpha shares of.

    Large weights go the fast way (`reconstruction`) where its error bound, doubled so that
    a full SVD may err as much, leaves no entry in doubt; else a full SVD decides.
    """
    factors = fast_factors(weight, rank)
    if factors is not None:
        values = np.abs(factors.left @ factors.right)
        if all(_certain(values, count_of(alpha, values.size), factors) for alpha in alphas):
            return values
    factors = full_factors(weight, rank)
    return np.abs(factors.left @ factors.right)


def low_magnitude_mask(
    weight: Float64[np.ndarray, "rows columns"], alpha: float
) -> Bool[np.ndarray, "rows columns"]:
    """The bottom-alpha share of `|W0|`."""
    return largest(-np.abs(weight), count_of(alpha, weight.size))


def random_mask(
    shape: tuple[int, ...], count: int, seed: int, tensor: str
) -> Bool[np.ndarray, "rows columns"]:
    """`count` entries drawn without replacement; the draw is named by seed and tensor."""
    rng = generator(seed, "random-mask", None, tensor)
    mask = np.zeros(int(np.prod(shape)), dtype=bool)
    mask[rng.permutation(mask.size)[:count]] = True
    return mask.reshape(shape)


def all_masks(
    weight: Float64[np.ndarray, "rows columns"],
    rank: int,
    alphas: Sequence[float],
    seed: int,
    tensor: str,
) -> list[dict[str, Bool[np.ndarray, "rows columns"]]]:
    """Every mask of `MASKS`, for each of `alphas`.

    `safe` is low-magnitude or not principal, `complement` is not principal, `principal_not_low` is principal
    and not low-magnitude (all that is not safe), and `random` has as many entries as `safe`, as in table 5.
    """
    found = []
    for alpha, principal in zip(alphas, principal_masks(weight, rank, alphas), strict=True):
        low = low_magnitude_mask(weight, alpha)
        safe = low | ~principal
        found.append(
            {
                "principal": principal,
                "low_magnitude": low,
                "safe": safe,
                "complement": ~principal,
                "principal_not_low": ~safe,
                "random": random_mask(weight.shape, int(np.count_nonzero(safe)), seed, tensor),
            }
        )
    return found


def count_of(alpha: float, n: int) -> int:
    """How many of `n` entries a share of `alpha` is, ties to even."""
    return round(alpha * n)


def largest(values: Float64[np.ndarray, "*shape"], count: int) -> Bool[np.ndarray, "*shape"]:
    """Mask of the `count` largest entries; of ties at the threshold the first in row-major order."""
    flat = values.reshape(-1)
    if count == 0:
        return np.zeros(values.shape, dtype=bool)
    threshold = np.partition(flat, flat.size - count)[flat.size - count]
    mask = flat > threshold
    ties = np.flatnonzero(flat == threshold)
    mask[ties[: count - np.count_nonzero(mask)]] = True
    return mask.reshape(values.shape)


def _certain(values: Float64[np.ndarray, "rows columns"], count: int, factors: Factors) -> bool:
    """Whether no entry can be on the other side of the threshold, were errors twice their bound."""
    if count in (0, values.size):
        return True
    at = values.size - count
    below, above = np.partition(values.reshape(-1), [at - 1, at])[at - 1 : at + 1]
    threshold = (below + above) / 2
    most = factors.row.max() + factors.column.max() + factors.rest
    row, column = np.nonzero(np.abs(values - threshold) <= 2 * most)
    error = factors.row[row] + factors.column[column] + factors.rest
    return bool((np.abs(values[row, column] - threshold) > 2 * error).all())
