"""The matrices of a run: which of its tensors are measured, read as float64.

What a matrix is, the family's table says (`Checkpoint.roles`). Experts that one tensor holds are matrices one
by one, named `TENSOR[0]`, `TENSOR[1]`, ...; their stacked biases are none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scramble.errors import CheckpointError, SelectionError
from scramble.measures.pairs.ends import CheckpointPair
from scramble.transforms.selection import layers as selected_layers

if TYPE_CHECKING:
    from jaxtyping import Float64


@dataclass(frozen=True)
class Selection:
    """What to measure.

    Attributes:
        layers: as `--layers` takes them; None for all, and for matrices outside the layers.
        modules: names such as `q_proj`; none for all.
        embeddings: include embeddings and output heads, which are left out otherwise.
    """

    layers: str | None = None
    modules: Sequence[str] = ()
    embeddings: bool = False


def matrices(run: CheckpointPair, chosen: Selection, *, every: bool = False) -> list[str]:
    """Names of the chosen matrices; what is no matrix with sides above 1 is passed over.

    Args:
        every: take whole tensors of all shapes instead.

    Raises:
        SelectionError: a layer or a module that the run does not have, or nothing is left.
    """
    what = "tensor" if every else "matrix"
    named = run.tensors if every else [one for name in run.tensors for one in _matrices(run, name)]
    places = {name: run.where(name) for name in named}
    wanted = set(chosen.modules)
    if unknown := sorted(wanted - {str(one["module"]) for one in places.values()}):
        known = sorted({str(one["module"]) for one in places.values()})
        raise SelectionError(f"--modules: no {what} '{unknown[0]}' here; there are {', '.join(known)}")
    if not wanted and not chosen.embeddings:
        places = {name: one for name, one in places.items() if one["role"] != "embedding"}
    if wanted:
        places = {name: one for name, one in places.items() if one["module"] in wanted}
    if chosen.layers is not None:
        held = [run.where(name)["layer"] for name in run.tensors]
        numbers = [number for number in held if isinstance(number, int)]
        kept = selected_layers(chosen.layers, 1 + max(numbers, default=-1))
        places = {name: one for name, one in places.items() if one["layer"] in kept}
    if not places:
        raise SelectionError(f"{run.name}: no {what} is left to measure; embeddings need --embeddings")
    return list(places)


def _matrices(run: CheckpointPair, name: str) -> list[str]:
    """A tensor that is a matrix, or the matrices of a stack; embeddings and heads among them."""
    shape = run.start.tensors[name].shape
    if run.start.roles[name] not in ("matrix", "embedding") or len(shape) < 2 or min(shape[-2:]) < 2:
        return []
    if len(shape) == 2:
        return [name]
    return [f"{name}[{at}]" for at in range(shape[0])] if len(shape) == 3 else []


def read_ends(
    run: CheckpointPair, name: str
) -> tuple[Float64[np.ndarray, "rows columns"], Float64[np.ndarray, "rows columns"]]:
    """A matrix at both ends as stored, exactly.

    Raises:
        CheckpointError: it holds infinite or NaN values, or is not stored as plain floats.
    """
    found, (tensor, index) = [], run.part(name)
    for end in (run.start, run.end):
        values = end.storage(tensor).decode(end.words(tensor)[index])
        if not np.isfinite(values).all():
            raise CheckpointError(f"{end.folder}: '{name}' holds infinite or NaN values; it has no spectrum")
        found.append(values)
    return found[0], found[1]
