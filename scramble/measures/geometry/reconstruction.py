"""Rank-k reconstruction of a weight, with a bound on how wrong each entry can be.

A mask takes the largest entries of the reconstruction, so what counts is on which side of a threshold an
entry lies. A full SVD answers that, slowly. For a large weight and a small rank, block Lanczos on the
float64 Gram matrix `G` of the smaller side finds the top-k subspace several times faster, and three things
that are measured on the result say how far it can be from the true one:

1. Cholesky of `tau I - (G - U diag(lambda) U^T)` succeeds, so no eigenvalue of `G` beyond the k found is
   above `tau` (Weyl: lambda_{k+1}(G) <= lambda_1(G - anything of rank k)). Nothing was missed.
2. For every column `u` of `U` with residual `r = W (W^T u) - lambda u`, the part of `u` outside the true
   subspace is at most `||r|| / (lambda - tau)`, because `G - lambda` is invertible out there.
3. With these parts `rho`, `B = W^T U`: entry (i, j) of `U B^T` is off by at most
   `rho . |B_j| + sigma_{k+1} rho . |U_i|`, and a second-order term.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import linalg

from scramble.measures.geometry.subspaces import EPS, decompose
from scramble.symmetries.draws import generator

if TYPE_CHECKING:
    from jaxtyping import Float64

BLOCK = 8
_STEPS_BETWEEN_CHECKS = 8
_ENOUGH = 1e-10  # of a radian; leaves an entry in doubt in about one mask of a thousand at 2560 x 2560
_SMALLEST_SIDE_PER_RANK = 16


@dataclass(frozen=True)
class Factors:
    """`left @ right` is the reconstruction; entry (i, j) is off by at most `row[i] + column[j] + rest`.

    `certified` is False for factors of a full SVD: they are what a certificate is compared to, and have none.
    """

    left: Float64[np.ndarray, "rows rank"]
    right: Float64[np.ndarray, "rank columns"]
    row: Float64[np.ndarray, " rows"]
    column: Float64[np.ndarray, " columns"]
    rest: float
    certified: bool


def full_factors(weight: Float64[np.ndarray, "rows columns"], rank: int) -> Factors:
    """From a full SVD."""
    found = decompose(weight)
    rows, columns = (np.zeros(size) for size in weight.shape)
    scaled = found.left[:, :rank] * found.values[:rank]
    return Factors(scaled, found.right[:rank], rows, columns, 0.0, False)


def fast_factors(weight: Float64[np.ndarray, "rows columns"], rank: int) -> Factors | None:
    """From block Lanczos, with the error bounds above; None where that is not worth it or not certain."""
    if weight.shape[0] > weight.shape[1]:
        turned = fast_factors(weight.T, rank)
        if turned is None:
            return None
        return Factors(turned.right.T, turned.left.T, turned.column, turned.row, turned.rest, True)
    if weight.shape[0] < _SMALLEST_SIDE_PER_RANK * rank:
        return None
    gram = weight @ weight.T
    found = _lanczos(gram, rank)
    if found is None:
        return None
    left, values = found
    top, gap = values[0], values[rank - 1] - values[rank]
    slack = len(gram) * EPS * top  # of the Gram matrix and its Cholesky factor
    above = values[rank] + gap / 4
    if not gap > 8 * slack or not _all_below(gram, left, values[:rank], above):
        return None
    above += slack
    inside = weight.T @ left
    residual = np.linalg.norm(weight @ inside - left * values[:rank], axis=0)
    rounding = 4 * EPS * np.sqrt(top * values[:rank])
    rho = (residual + rounding) / (values[:rank] - above)
    product = rank * EPS * np.linalg.norm(left, axis=1).max() * np.linalg.norm(inside, axis=1).max()
    return Factors(
        left,
        inside.T,
        np.sqrt(above) * (np.abs(left) @ rho),
        np.abs(inside) @ rho,
        float(product + 2 * (rho @ rho) * np.sqrt(top)),
        True,
    )


def _lanczos(
    gram: Float64[np.ndarray, "n n"], rank: int
) -> tuple[Float64[np.ndarray, "n rank"], Float64[np.ndarray, " rank+1"]] | None:
    """Top eigenvectors and one more eigenvalue, descending; None if 3/4 of the space do not hold them.

    Block Lanczos from a fixed start: the three-term recurrence, then a reorthogonalisation against all. It
    ends where the subspace is found to `_ENOUGH`, or where rounding keeps it from coming closer.
    """
    n = len(gram)
    most = 3 * n // 4
    basis = np.empty((most, n))  # vectors as rows: BLAS multiplies a few rows by a matrix fastest
    projected = np.zeros((most, most))
    start = generator(0, "lanczos", None).standard_normal((n, BLOCK))
    block = linalg.qr(start, mode="economic", check_finite=False)[0].T
    for step, at in enumerate(range(0, most - 2 * BLOCK + 1, BLOCK)):
        before, upto = max(0, at - BLOCK), at + BLOCK
        basis[at:upto] = block
        image = block @ gram
        projected[at:upto, at:upto] = image @ block.T
        image -= projected[at:upto, before:upto] @ basis[before:upto]
        image -= (image @ basis[:upto].T) @ basis[:upto]
        orthonormal, coupling = linalg.qr(image.T, mode="economic", check_finite=False)
        if upto >= 7 * rank and step % _STEPS_BETWEEN_CHECKS == 0:
            inner = projected[:upto, :upto]
            values, vectors = linalg.eigh(
                (inner + inner.T) / 2, subset_by_index=[upto - rank - 1, upto - 1], check_finite=False
            )
            left = np.linalg.norm(coupling @ vectors[-BLOCK:, 1:], axis=0)
            if (left <= np.maximum(EPS * values[-1], _ENOUGH * (values[1:] - values[0]))).all():
                return basis[:upto].T @ vectors[:, :0:-1], values[::-1]
        projected[upto : upto + BLOCK, at:upto] = coupling
        projected[at:upto, upto : upto + BLOCK] = coupling.T
        block = orthonormal.T
    return None


def _all_below(
    gram: Float64[np.ndarray, "n n"],
    vectors: Float64[np.ndarray, "n rank"],
    values: Float64[np.ndarray, " rank"],
    bound: float,
) -> bool:
    """Whether all eigenvalues of `gram` but the `rank` given ones are below `bound`. Overwrites `gram`."""
    scaled = np.asfortranarray(vectors * np.sqrt(values))
    # A symmetric matrix is its own transpose, and Fortran order spares the copy.
    rest = linalg.blas.dsyrk(1.0, scaled, beta=-1.0, c=gram.T, lower=1, overwrite_c=1)
    rest[np.diag_indices(len(rest))] += bound
    return bool(linalg.lapack.dpotrf(rest, lower=1, clean=0, overwrite_a=1)[1] == 0)
