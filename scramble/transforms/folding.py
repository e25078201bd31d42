"""Folding: the gain of every norm goes into the linear maps that read it.

`norm(x) * g` followed by `W` is `norm(x)` followed by `W diag(g)`: every gain moves into the linear maps that
read its norm, and becomes one (or zero, where the gain is `1 + weight`). A head that is tied to the embedding
is stored on its own, since only the head reads the last norm. (Ashkboos et al. 2024, SliceGPT, section 3.2.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from scramble.architecture.axes import Array
from scramble.checkpoints import Checkpoint
from scramble.errors import CheckpointError, SymmetryError

if TYPE_CHECKING:
    from jaxtyping import Float64


def folded(checkpoint: Checkpoint) -> dict[str, Callable[[], Array]]:
    """Every tensor that folding changes, to its float64 values."""
    architecture = checkpoint.architecture
    family, slots = architecture.family, architecture.slots()
    for constraint in architecture.constraints(None):
        if constraint.axis == "hidden" and constraint.kind in ("layer_norm", "post_norm"):
            why = {
                "layer_norm": "their mean and bias do not fold into the weights that read them",
                "post_norm": "their weights act before the residual sum, where no weight can absorb them",
            }[constraint.kind]
            raise SymmetryError(f"{family.name}: {constraint.note}, and {why}")
    neutral = 0.0 if family.offset else 1.0
    quantised = architecture.quantised(checkpoint.tensors)
    found: dict[str, Callable[[], Array]] = {}
    gains = {
        name: slot
        for name, slot in slots.items()
        if slot.mtp is None and slot.local in family.folds and name in checkpoint.tensors
    }
    if all((_values(checkpoint, name) == neutral).all() for name in gains):
        raise SymmetryError(f"{checkpoint.folder}: its norms have no weights, it is folded already")
    for norm, slot in gains.items():
        found[norm] = partial(np.full, checkpoint.tensors[norm].shape, neutral)
        for name in _readers(checkpoint, norm, slot.layer, family.folds[slot.local]):
            if name in quantised:
                raise CheckpointError(
                    f"{checkpoint.folder}: '{name}' reads '{norm}' and is stored in a quantised format "
                    f"('{quantised[name][0]}'), which is copied but never changed"
                )
            found[name] = partial(_scaled, checkpoint, name, norm, 1.0 - neutral)
    return found


def _readers(checkpoint: Checkpoint, norm: str, layer: int | None, local: tuple[str, ...]) -> Iterator[str]:
    """The linear maps that read a norm and are there: stored, tied to an embedding, or quantised."""
    architecture = checkpoint.architecture
    quantised = architecture.quantised(checkpoint.tensors)
    for name, slot in architecture.slots().items():
        there = checkpoint.holds(name) or name in quantised
        if slot.mtp is None and slot.layer == layer and slot.local in local and there:
            yield name


def _scaled(checkpoint: Checkpoint, name: str, norm: str, offset: float) -> Float64[np.ndarray, "..."]:
    """`W diag(g)`: a tensor with its `hidden` axis scaled by a norm's gain."""
    slot = checkpoint.architecture.slots()[name]
    gain = _values(checkpoint, norm) + offset
    values = np.array(_values(checkpoint, name))
    for names, view in slot.layout.views(values, slot.sizes):
        shape = [1] * view.ndim
        shape[names.index("hidden")] = -1
        view *= gain.reshape(shape)
    return values


def _values(checkpoint: Checkpoint, name: str) -> Float64[np.ndarray, "..."]:
    return checkpoint.storage(name).decode(checkpoint.words(name))
