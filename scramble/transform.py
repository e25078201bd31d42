"""Group elements applied to stored tensors: exactly for permutations, else float64 and one rounding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from scramble.axes import Array, Layout, Sizes
from scramble.checkpoints import Storage
from scramble.errors import CheckpointError
from scramble.symmetries import Element, act


def exact(
    words: Array, storage: Storage, layout: Layout, sizes: Sizes, elements: Sequence[Element]
) -> Float64[np.ndarray, "..."]:
    """The transformed tensor in float64, unrounded."""
    return act(storage.decode(words), layout, sizes, elements)


def rounded(
    name: str, words: Array, storage: Storage, layout: Layout, sizes: Sizes, elements: Sequence[Element]
) -> tuple[Array, float]:
    """The transformed tensor as stored words, and `||rounded - exact|| / ||exact||`.

    Raises:
        CheckpointError: values that are not finite, before or after.
    """
    if all(element.exact for element in elements):
        return act(words, layout, sizes, elements), 0.0
    image = exact(words, storage, layout, sizes, elements)
    stored = storage.encode(image)
    error = float(np.linalg.norm(storage.decode(stored) - image))
    norm = float(np.linalg.norm(image))
    if not np.isfinite(error) or not np.isfinite(norm):
        raise CheckpointError(f"'{name}': {storage.name} cannot hold the rotated values (infinite or NaN)")
    return stored, error / norm if norm else 0.0
