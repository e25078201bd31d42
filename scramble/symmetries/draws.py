"""Random draws keyed by what they are for, so that a subset of layers draws what the whole would."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Int64


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
