"""Weights to measure: random ones with a planted spectrum, and those of a run."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from scramble.measures.pairs.ends import CheckpointPair
from tests.models import weights


def orthonormal(rng: np.random.Generator, n: int, k: int) -> Float64[np.ndarray, "n k"]:
    """Columns of a Haar-distributed orthogonal matrix."""
    q, r = np.linalg.qr(rng.standard_normal((n, k)))
    return q * np.sign(np.diag(r))


def planted(rng: np.random.Generator, rows: int, columns: int, values: Float64[np.ndarray, " side"]):
    """A weight with these singular values and random singular vectors."""
    k = len(values)
    return (orthonormal(rng, rows, k) * values) @ orthonormal(rng, columns, k).T


def both_ends(run: CheckpointPair, name: str) -> tuple[Float64[np.ndarray, "rows columns"], ...]:
    """A weight of a run at its start and at its end."""
    return tuple(weights(end.folder)[name].double().numpy() for end in (run.start, run.end))
