"""Group elements applied to stored tensors: exactly for permutations, else float64 and one rounding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from scramble.architecture.axes import Array, Axis, Layout, Sizes, bare
from scramble.checkpoints import Storage
from scramble.errors import CheckpointError
from scramble.symmetries import Element, Scaling, act

if TYPE_CHECKING:
    from jaxtyping import Float64

# Numbers transformed at a time: their float64 values and what is made of them stay near the core.
BLOCK, ROWS = 1 << 17, 256
# The axis of a part's rows. No table can name one so: the notation has no spaces in a name.
_PART = Axis("rows of a part")


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
        CheckpointError: values that are not finite, before or after, or that a scaling takes out of the range
            of normal numbers.
    """
    if any(isinstance(element, Scaling) for element in elements):
        _check_range(name, words, storage, layout, sizes, elements)
    turns = [place for place, element in enumerate(elements) if not element.exact]
    if not turns:
        return act(words, layout, sizes, elements), 0.0
    # What moves words commutes with decoding and rounding: before and after the turns it acts on words.
    first, last = turns[0], turns[-1] + 1
    image = np.empty(words.shape, words.dtype)
    missed = whole = 0.0
    for part, its_layout, its_sizes in _blocks(layout, sizes, elements):
        moved = act(words[part], its_layout, its_sizes, elements[:first])
        target = exact(moved, storage, its_layout, its_sizes, elements[first:last])
        stored = storage.encode(target)
        image[part] = act(stored, its_layout, its_sizes, elements[last:])
        gap = storage.decode(stored)
        if not np.isfinite(gap).all():
            raise CheckpointError(
                f"'{name}': {storage.name} cannot hold the transformed values (infinite or NaN)"
            )
        gap -= target
        missed += _square(gap)
        whole += _square(target)
    return image, math.sqrt(missed / whole) if whole else 0.0


def _check_range(
    name: str, words: Array, storage: Storage, layout: Layout, sizes: Sizes, elements: Sequence[Element]
) -> None:
    """Refuse a scaling of, or into, subnormal or infinite numbers: there alone it is not exact."""
    values = storage.decode(words)
    for element in elements:
        image = act(values, layout, sizes, [element])
        for one in (values, image) if isinstance(element, Scaling) else ():
            stored = np.abs(storage.decode(storage.encode(one)))
            if not ((one == 0) | (stored >= 2.0**storage.smallest) & (stored < np.inf)).all():
                raise CheckpointError(
                    f"'{name}': a scaling takes a value out of the normal numbers of {storage.name}"
                )
        values = image


def _square(values: Float64[np.ndarray, "..."]) -> float:
    """`||values||^2`, without BLAS and its threads."""
    flat = values.ravel()
    return float(np.einsum("i,i", flat, flat))


def _blocks(
    layout: Layout, sizes: Sizes, elements: Sequence[Element]
) -> Iterator[tuple[tuple[slice, ...], Layout, Sizes]]:
    """Parts of a tensor that the elements transform one by one, each with its layout and sizes.

    They are cut along a dimension that no element knows; without one, the whole tensor is the only part.
    """
    shape = layout.shape(sizes)
    known = {axis for element in elements for axis in (*element.over, element.axis)}
    free = [
        place
        for place, dim in enumerate(layout.dims)
        if isinstance(dim, Axis) and bare(dim.name) not in known
    ]
    if not free:
        yield (), layout, sizes
        return
    at = free[0]
    # Fewer rows than this would read a large rotation once for little work.
    least = max(element.data.shape[-1] for element in elements)
    step = max(1, max(BLOCK, least * ROWS) * shape[at] // math.prod(shape))
    cut = replace(layout, dims=(*layout.dims[:at], _PART, *layout.dims[at + 1 :]))
    for start in range(0, shape[at], step):
        stop = min(start + step, shape[at])
        yield (*[slice(None)] * at, slice(start, stop)), cut, {**sizes, _PART.name: stop - start}


def off(words: Array, storage: Storage, target: Float64[np.ndarray, "..."]) -> int:
    """How many stored words are not `target` rounded to nearest.

    The slack lets a tie fall either way where two BLAS libraries differ in the last bits of float64.
    """
    slack = 1e-12 * np.abs(target).max(initial=0.0)
    near = np.abs(storage.decode(words) - target) <= 0.5 * storage.ulp(target) + slack
    return int(near.size - np.count_nonzero(near))
