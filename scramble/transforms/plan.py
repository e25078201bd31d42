"""`Transform`: group elements, and what they do to every tensor of a checkpoint.

It is the one form in which a scramble is drawn, read from a manifest, inverted, composed and applied. What it
does to each tensor (`actions`) is worked out once, from the family's table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float64

from scramble.architecture import Architecture
from scramble.architecture.axes import Array, Layout, Slot
from scramble.checkpoints import Checkpoint
from scramble.errors import CheckpointError, MismatchError, SymmetryError
from scramble.present.notebook import html
from scramble.symmetries import Element, Permutation, Rotation, act

Stage = Sequence[tuple[int | None, Element]]
"""Elements in the order in which they act, each in one layer or (None) in the whole model."""


@dataclass(frozen=True)
class Action:
    """What becomes of one tensor: the stored values of `source` (another one where tensors trade names),
    acted on by `elements` in order."""

    source: str
    layout: Layout
    elements: tuple[Element, ...]

    @property
    def exact(self) -> bool:
        """Whether values are only moved and change signs, so that nothing is rounded."""
        return all(element.exact for element in self.elements)


Actions = Mapping[str, Action]
"""By the name of every tensor that is touched."""


@dataclass(frozen=True, repr=False)
class Transform:
    """A composition of group elements that acts on the tensors of one architecture.

    Attributes:
        checkpoint: a checkpoint of the architecture, for names, shapes and gains.
        stage: the elements, in the order in which they act.
    """

    checkpoint: Checkpoint
    stage: Stage

    @cached_property
    def actions(self) -> Actions:
        """What is done to every tensor that the checkpoint stores; untouched ones are left out.

        Raises:
            SymmetryError: an element does not commute with a gain.
            CheckpointError: a tensor that would be touched is stored in a quantised format.
        """
        return _resolve(self.checkpoint, self.stage)

    @cached_property
    def actions_with_tied(self) -> Actions:
        """The same, and what becomes of a tied head that this checkpoint does not store, but another may."""
        heads = {head: name for head, name in self.checkpoint.tied.items() if name in self.actions}
        return {**{head: self.actions[name] for head, name in heads.items()}, **self.actions}

    def __call__(self, tensors: Mapping[str, Any]) -> dict[str, Float64[np.ndarray, "..."]]:
        """The images of tensors, unrounded: weights, or updates, which transform alike.

        Args:
            tensors: name to array (numpy or torch, any float dtype). Where tensors trade names, as experts
                do, those that a name is made of must be there too.

        Returns:
            float64 arrays under the same names.

        Raises:
            MismatchError: a tensor of another shape, or one that another is made of is missing.
        """
        actions, slots = self.actions_with_tied, self.checkpoint.architecture.slots()
        images = {}
        for name in tensors:
            action = actions.get(name)
            source = action.source if action and name not in self.checkpoint.tied else name
            if source not in tensors:
                raise MismatchError(f"'{name}' is made of '{source}', which is not among the tensors")
            values = _float64(tensors[source])
            try:
                images[name] = (
                    act(values, action.layout, slots[name].sizes, action.elements) if action else values
                )
            except ValueError as error:
                raise MismatchError(f"'{name}': {error}") from None
        return images

    def inverse(self) -> Transform:
        """What undoes it: the inverses of its elements, in reverse order."""
        return Transform(
            self.checkpoint, [(layer, element.inverse()) for layer, element in reversed(self.stage)]
        )

    def then(self, other: Transform) -> Transform:
        """This transform, then another of the same architecture.

        Args:
            other: what acts after this one.

        Returns:
            The composition; its checkpoint is this one's.

        Raises:
            MismatchError: the architectures differ.
        """
        if self.checkpoint.architecture.slots().keys() != other.checkpoint.architecture.slots().keys():
            raise MismatchError("the two transforms are of different architectures")
        return Transform(self.checkpoint, [*self.stage, *other.stage])

    def of(self, checkpoint: Checkpoint) -> Transform:
        """The same elements for another checkpoint of the architecture.

        Args:
            checkpoint: the names, shapes and gains that the elements act on.

        Returns:
            The transform of that checkpoint.
        """
        return Transform(checkpoint, self.stage)

    def __repr__(self) -> str:
        layers = sorted({layer for layer, _ in self.stage if layer is not None})
        parts = ["the whole model"] * any(layer is None for layer, _ in self.stage)
        parts += [f"layers {', '.join(map(str, layers))}"] if layers else []
        where = " and ".join(parts) or "nothing"
        family = self.checkpoint.architecture.family.name
        return f"<Transform of a {family}: {len(self.stage)} elements in {where}>"

    def _repr_html_(self) -> str:
        rows = [
            {
                "layer": "whole model" if layer is None else layer,
                "axis": element.axis,
                "element": element.kind,
            }
            for layer, element in self.stage
        ]
        return html(self, rows)


def uneven_gain(checkpoint: Checkpoint, axis: str) -> str | None:
    """Why no rotation of an axis commutes with this checkpoint's gains on it, or None."""
    for name, slot in checkpoint.architecture.slots().items():
        held = axis in slot.layout.gains and name in checkpoint.tensors
        if held and (reason := _uneven(checkpoint, name, axis)):
            return reason
    return None


def _resolve(checkpoint: Checkpoint, stage: Stage) -> dict[str, Action]:
    architecture, touched = checkpoint.architecture, dict[str, Action]()
    quantised = architecture.quantised(checkpoint.tensors)
    acting = _by_layer(stage, architecture)
    for name, slot in architecture.slots().items():
        source, elements = _walk_back(slot, acting.get(slot.layer, []))
        if not elements and source == slot.position:
            continue
        if name in quantised:
            raise CheckpointError(
                f"{checkpoint.folder}: '{name}' is stored in a quantised format "
                f"('{quantised[name][0]}'), which is copied but never changed"
            )
        if name not in checkpoint.tensors:
            continue
        action = Action(slot.name(source), slot.layout, tuple(elements))
        _refuse_what_is_no_symmetry(checkpoint, name, action)
        touched[name] = action
    return touched


def _by_layer(stage: Stage, architecture: Architecture) -> dict[int | None, list[Element]]:
    """The elements that act in each layer, in order; those of the whole model act in all."""
    acting: dict[int | None, list[Element]] = {None: []}
    for layer, element in stage:
        for number in [None, *range(architecture.layers)] if layer is None else [layer]:
            acting.setdefault(number, []).append(element)
    return acting


def _walk_back(slot: Slot, elements: Sequence[Element]) -> tuple[Mapping[str, int], list[Element]]:
    """Where a tensor comes from on the axes of its name, and what acts on it on its way here."""
    position, acting = dict(slot.position), list[Element]()
    for element in reversed(elements):
        if element.axis in position:
            if not isinstance(element, Permutation) or set(element.over) - position.keys():
                raise SymmetryError(f"'{slot.pattern}' can be permuted along {element.axis}, not mixed")
            index = tuple(position[axis] for axis in (*element.over, element.axis))
            position[element.axis] = int(element.data[index])
        elif element.concerns(slot.layout):
            acting.append(element.at(position))
    return position, acting[::-1]


def _refuse_what_is_no_symmetry(checkpoint: Checkpoint, name: str, action: Action) -> None:
    """Of this very tensor: a rotation of uneven gains, or a trade with a tensor of another dtype."""
    entry, other = checkpoint.tensors[name], checkpoint.tensors[action.source]
    if (entry.dtype, entry.shape) != (other.dtype, other.shape):
        raise CheckpointError(
            f"'{name}' is {entry.dtype}, but would be permuted with a tensor of {other.dtype}"
        )
    for element in action.elements:
        if isinstance(element, Rotation) and element.axis in action.layout.nonlinear:
            raise SymmetryError(
                f"'{name}' has {element.axis} beside a nonlinearity, which no rotation passes"
            )
        gains = isinstance(element, Rotation) and element.axis in action.layout.gains
        if gains and (reason := _uneven(checkpoint, name, element.axis)):
            raise SymmetryError(reason)


def _uneven(checkpoint: Checkpoint, name: str, axis: str) -> str | None:
    words = checkpoint.words(name)
    if (words == words.flat[0]).all():
        return None
    return (
        f"'{name}' scales each channel of {axis} by its own factor, which no rotation leaves alone; "
        "fold it into the weights that read it first (scramble fold)"
    )


def _float64(values: Any) -> Array:
    """numpy float64 of an array or a tensor; numpy has no bfloat16, so torch widens it."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)
