"""The matrices of a run: which of its tensors are measured, read as float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scramble.errors import CheckpointError, SelectionError
from scramble.selection import layers as selected_layers
from scramble.updates.ends import Run
from scramble.updates.ratios import place
from scramble.updates.tables import EMBEDDINGS

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


def matrices(run: Run, chosen: Selection, *, every: bool = False) -> list[str]:
    """Names of the chosen matrices; tensors that are not matrices with sides above 1 are passed over.

    Args:
        every: take tensors of all shapes instead.

    Raises:
        SelectionError: a layer or a module that the run does not have, or nothing is left.
    """
    shapes = {name: run.start.tensors[name].shape for name in run.tensors}
    what = "tensor" if every else "matrix"
    places = {
        name: place(name) for name, shape in shapes.items() if every or (len(shape) == 2 and min(shape) > 1)
    }
    wanted = set(chosen.modules)
    if unknown := sorted(wanted - {str(one["module"]) for one in places.values()}):
        held = sorted({str(one["module"]) for one in places.values()})
        raise SelectionError(f"--modules: no {what} '{unknown[0]}' here; there are {', '.join(held)}")
    if not wanted and not chosen.embeddings:
        places = {name: one for name, one in places.items() if one["module"] not in EMBEDDINGS}
    if wanted:
        places = {name: one for name, one in places.items() if one["module"] in wanted}
    if chosen.layers is not None:
        numbers = [int(str(place(name)["layer"])) for name in shapes if place(name)["layer"] is not None]
        kept = selected_layers(chosen.layers, 1 + max(numbers, default=-1))
        places = {name: one for name, one in places.items() if one["layer"] in kept}
    if not places:
        raise SelectionError(f"{run.name}: no {what} is left to measure; embeddings need --embeddings")
    return list(places)


def read_ends(
    run: Run, name: str
) -> tuple[Float64[np.ndarray, "rows columns"], Float64[np.ndarray, "rows columns"]]:
    """A matrix at both ends as stored, exactly.

    Raises:
        CheckpointError: it holds infinite or NaN values, or is not stored as plain floats.
    """
    found = []
    for end in (run.start, run.end):
        values = end.storage(name).decode(end.words(name))
        if not np.isfinite(values).all():
            raise CheckpointError(f"{end.folder}: '{name}' holds infinite or NaN values; it has no spectrum")
        found.append(values)
    return found[0], found[1]
