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
) -> Float64[np.ndarray, ...]:
    """The transformed tensor in float64, unrounded."""
    return act(storage.decode(words), layout, sizes, elements)


def rounded(
    name: str, words: Array, storage: Storage, layout: Layout, sizes: Sizes, elements: Sequence[Element]
) -> tuple[Array, float]:
    """The transformed tensor as stored words, and `||rounded - exact|| / ||exact||`.

    Raises:
        CheckpointError: values that are not finite, before or after.
    """
    turns = [place for place, element in enumerate(elements) if not element.exact]
    if not turns:
        return act(words, layout, sizes, elements), 0.0
    # What moves words commutes with decoding and rounding: before and after the turns it acts on words.
    first, last = turns[0], turns[-1] + 1
    moved = act(words, layout, sizes, elements[:first])
    image = exact(moved, storage, layout, sizes, elements[first:last])
    stored = storage.encode(image)
    back = storage.decode(stored)
    if not np.isfinite(back).all():
        raise CheckpointError(
            f"'{name}': {storage.name} cannot hold the transformed values (infinite or NaN)"
        )
    norm = float(np.linalg.norm(image))
    error = float(np.linalg.norm(back - image)) / norm if norm else 0.0
    return act(stored, layout, sizes, elements[last:]), error


def off(words: Array, storage: Storage, target: Float64[np.ndarray, ...]) -> int:
    """How many stored words are not `target` rounded to nearest.

    The slack lets a tie fall either way where two BLAS libraries differ in the last bits of float64.
    """
    slack = 1e-12 * np.abs(target).max(initial=0.0)
    near = np.abs(storage.decode(words) - target) <= 0.5 * storage.ulp(target) + slack
    return int(near.size - np.count_nonzero(near))
