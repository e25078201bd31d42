"""Singular subspaces of a weight, and the principal angles between two of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import linalg

if TYPE_CHECKING:
    from jaxtyping import Float64

EPS = float(np.finfo(np.float64).eps)
SPECTRA_RANK, PRINCIPAL_RANK = 512, 64


@dataclass(frozen=True)
class Decomposition:
    """`W = left @ diag(values) @ right`, thin, in float64; values descend.

    Left is the side of the rows: the outputs of a PyTorch linear layer, the inputs of GPT-2's transposed
    ones.
    """

    left: Float64[np.ndarray, "rows side"]
    values: Float64[np.ndarray, " side"]
    right: Float64[np.ndarray, "side columns"]


def limited(rank: int, shape: tuple[int, ...]) -> int:
    """`rank`, but no more than half the smaller side, and at least 1.

    Above half, two subspaces share directions because there is no room for others.
    """
    return max(1, min(rank, min(shape) // 2))


def decompose(weight: Float64[np.ndarray, "rows columns"]) -> Decomposition:
    """Full thin singular value decomposition (LAPACK gesdd; gesvd where that does not converge)."""
    try:
        found = linalg.svd(weight, full_matrices=False, check_finite=False)
    except linalg.LinAlgError:
        found = linalg.svd(weight, full_matrices=False, check_finite=False, lapack_driver="gesvd")
    return Decomposition(*found)


def singular_values(weight: Float64[np.ndarray, "rows columns"]) -> Float64[np.ndarray, " side"]:
    """Singular values alone, descending."""
    values: Float64[np.ndarray, " side"] = linalg.svdvals(weight, check_finite=False)
    return values


def principal_angles(
    a: Float64[np.ndarray, "n k"], b: Float64[np.ndarray, "n k"]
) -> Float64[np.ndarray, " k"]:
    """Principal angles between the spans of two orthonormal bases, ascending, in radians.

    `cos t_i = sigma_i(a^T b)` (arXiv 2511.08567, 4.1) loses every angle below 1e-8 to rounding, so angles
    below 45 degrees come from their sines, the singular values of what is left of `b` outside the span of `a`
    (Bjoerck and Golub 1973). Absolute error: a few float64 roundings.
    """
    inner = a.T @ b
    outside = b - a @ inner
    outside -= a @ (a.T @ outside)
    cosines = np.minimum(singular_values(inner), 1)
    sines = np.minimum(singular_values(outside), 1)[::-1]
    angles: Float64[np.ndarray, " k"] = np.where(cosines**2 > 0.5, np.arcsin(sines), np.arccos(cosines))
    return angles
