"""Random draws keyed by what they are for, so that a subset of layers draws what the whole would."""

import hashlib

import numpy as np


def generator(seed: int, symmetry: str, layer: int, *index: int | str) -> np.random.Generator:
    """A counter-based generator (Philox) whose key is the digest of its arguments."""
    text = "/".join(map(str, (seed, symmetry, layer, *index)))
    key = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))
