"""Random draws keyed by what they are for, so that a subset of layers draws what the whole would.

Of permutations, and of orthogonal matrices with the way from the identity to them.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from scramble.symmetries.products import one_blas_thread

if TYPE_CHECKING:
    from jaxtyping import Float64, Int64

    Matrix = Float64[np.ndarray, "n n"]


def generator(seed: int, symmetry: str, layer: int | None, *index: int | str) -> np.random.Generator:
    """A counter-based generator (Philox) whose key is the digest of its arguments."""
    where = "model" if layer is None else layer
    text = "/".join(map(str, (seed, symmetry, where, *index)))
    key = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def permutation(n: int, rng: np.random.Generator) -> Int64[np.ndarray, " n"]:
    """A uniform draw from the permutations of n > 1 things other than the identity."""
    while True:
        drawn = rng.permutation(n).astype(np.int64)
        if (drawn != np.arange(n)).any():
            return drawn


def haar(n: int, rng: np.random.Generator) -> Matrix:
    """From the Haar measure on O(n): QR with the signs of R's diagonal (Mezzadri 2007)."""
    q, r = np.linalg.qr(rng.standard_normal((n, n)))
    matrix: Matrix = q * np.sign(np.diagonal(r))
    return matrix


def hadamard(n: int, rng: np.random.Generator) -> Matrix:
    """A randomized Hadamard matrix: Sylvester's, normalised, with random signs of its columns.

    Raises:
        ValueError: n is not a power of two.
    """
    from scipy.linalg import hadamard as sylvester

    matrix: Matrix = sylvester(n) / np.sqrt(n) * rng.choice([-1.0, 1.0], n)
    return matrix


def no_hadamard(n: int) -> str | None:
    """Why there is no such matrix of this size, or None."""
    return (
        f"a Hadamard matrix of Sylvester's needs a power of two, there are {n} channels"
        if n & (n - 1)
        else None
    )


def power(matrix: Matrix, strength: float) -> Matrix:
    """The point `strength` along the one-parameter group from the identity (0) to a rotation (1).

    The complex Schur form of an orthogonal matrix is diagonal, with entries `exp(i angle)`; angles are
    scaled, so that `power(R, s) power(R, t) = power(R, s + t)`. `matrix` must have determinant one.
    """
    from scipy.linalg import schur

    with one_blas_thread():  # of scipy's BLAS, which has just been loaded
        diagonal, basis = schur(matrix, output="complex")
    angles = np.angle(np.diagonal(diagonal))
    path: Matrix = np.real(basis * np.exp(1j * strength * angles) @ basis.conj().T)
    return path
