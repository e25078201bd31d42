"""From a choice of symmetries to what acts on each tensor, forwards and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scramble.architecture import Architecture
from scramble.architecture.axes import Array, Layout, Slot
from scramble.checkpoints import Checkpoint
from scramble.errors import CheckpointError, ManifestError, SymmetryError
from scramble.families.tie import head_and_embedding
from scramble.symmetries import Element, Permutation, Rotation, Symmetry, symmetry
from scramble.transforms.manifest import ElementRecord, Elements, Manifest, Step

_PLACEBO_SEED = 1_000_003  # seeds of placebos are far from those that people count up from theirs
_TRIES = 20

Stage = Sequence[tuple[int | None, Element]]
"""Elements in the order in which they act, each in one layer or (None) in the whole model."""


@dataclass(frozen=True)
class Action:
    """What becomes of one tensor: the words of `source`, another one where tensors trade names, acted on."""

    source: str
    layout: Layout
    elements: tuple[Element, ...]

    @property
    def exact(self) -> bool:
        """Whether words are only moved (and change signs), so that nothing is rounded."""
        return all(element.exact for element in self.elements)


Actions = Mapping[str, Action]
"""By the name of every tensor that is touched."""


def draw_steps(
    architecture: Architecture,
    requests: Sequence[tuple[Symmetry, Sequence[int | None]]],
    seed: int,
    prefix: str,
) -> tuple[list[Step], dict[str, Array]]:
    """Draw every requested symmetry for its layers; keys of the elements begin with `prefix`."""
    steps: list[Step] = []
    stored: dict[str, Array] = {}
    for place, (chosen, layers) in enumerate(requests):
        for layer in layers:
            where = "model" if layer is None else layer
            records = []
            for element in chosen.draw(architecture, seed, layer):
                key = f"{prefix}.{place}.{chosen.name}.{where}.{element.axis}"
                stored[key] = element.data
                records.append(
                    ElementRecord(key=key, kind=element.kind, axis=element.axis, over=element.over)
                )
            steps.append(
                Step(
                    symmetry=chosen.name,
                    options=chosen.model_dump(),
                    layer=layer,
                    seed=seed,
                    group=chosen.group(architecture, layer),
                    elements=tuple(records),
                )
            )
    return steps, stored


def recall(architecture: Architecture, steps: Sequence[Step], elements: Elements) -> Stage:
    """The elements of recorded steps.

    Raises:
        ManifestError: the steps were drawn for a model of another shape.
    """
    found: list[tuple[int | None, Element]] = []
    for step in steps:
        if step.layer is not None and step.layer >= architecture.layers:
            raise ManifestError(
                f"the manifest scrambles layer {step.layer}, the model has {architecture.layers}"
            )
        for record in step.elements:
            element = record.element(elements)
            _fits(element, architecture)
            found.append((step.layer, element))
    return found


def _fits(element: Element, architecture: Architecture) -> None:
    axes = (*element.over, element.axis)
    if unknown := [axis for axis in axes if axis not in architecture.sizes]:
        raise ManifestError(f"the manifest acts on the axis '{unknown[0]}', which this model does not have")
    want = tuple(architecture.sizes[axis] for axis in axes)
    if element.data.shape[: len(axes)] != want:
        raise ManifestError(
            f"the manifest's element of {axes} is {element.data.shape}, the model's axes are {want}"
        )


def inverse(forward: Stage) -> Stage:
    """What undoes a stage: inverses in reverse order."""
    return [(layer, element.inverse()) for layer, element in reversed(forward)]


def resolve(checkpoint: Checkpoint, forward: Stage) -> Actions:
    """What a stage does to every tensor of a checkpoint, those that it leaves alone apart.

    Raises:
        SymmetryError: an element does not commute with a gain.
        CheckpointError: a tensor that would be touched is stored in a quantised format.
    """
    architecture, touched = checkpoint.architecture, dict[str, Action]()
    quantised = architecture.quantised(checkpoint.tensors)
    acting: dict[int | None, list[Element]] = {None: []}
    for layer, element in forward:
        numbers = [None, *range(architecture.layers)] if layer is None else [layer]
        for number in numbers:
            acting.setdefault(number, []).append(element)
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
        action = Action(slot.name(architecture.sizes, source), slot.layout, tuple(elements))
        _acts(checkpoint, name, action)
        touched[name] = action
    return touched


def resolve_tied(checkpoint: Checkpoint, forward: Stage) -> Actions:
    """The same, and what becomes of a tied head that this checkpoint does not store, but another may."""
    actions = resolve(checkpoint, forward)
    heads = {head: actions[name] for head, name in checkpoint.tied.items() if name in actions}
    return {**heads, **actions}


def _walk_back(slot: Slot, elements: Sequence[Element]) -> tuple[Mapping[str, int], list[Element]]:
    """Where a tensor comes from on the axes of its name, and what acts on it on its way here."""
    position, acting = dict(slot.position), list[Element]()
    for element in reversed(elements):
        if element.axis in position:
            if not isinstance(element, Permutation) or set(element.over) - position.keys():
                raise SymmetryError(f"'{slot.pattern}' can trade places along {element.axis}, not mix")
            index = tuple(position[axis] for axis in (*element.over, element.axis))
            position[element.axis] = int(element.data[index])
        elif slot.layout.carries(element.axis):
            acting.append(element.at(position))
    return position, acting[::-1]


def _acts(checkpoint: Checkpoint, name: str, action: Action) -> None:
    """Refuse what would not be a symmetry of this very tensor."""
    entry, other = checkpoint.tensors[name], checkpoint.tensors[action.source]
    if (entry.dtype, entry.shape) != (other.dtype, other.shape):
        raise CheckpointError(f"'{name}' is {entry.dtype}, but would trade places with {other.dtype}")
    for element in action.elements:
        gains = isinstance(element, Rotation) and element.axis in action.layout.gains
        if gains and (reason := _uneven(checkpoint, name, element.axis)):
            raise SymmetryError(reason)


def uneven_gain(checkpoint: Checkpoint, axis: str) -> str | None:
    """Why no rotation of an axis commutes with this checkpoint's gains on it, or None."""
    for name, slot in checkpoint.architecture.slots().items():
        held = axis in slot.layout.gains and name in checkpoint.tensors
        if held and (reason := _uneven(checkpoint, name, axis)):
            return reason
    return None


def _uneven(checkpoint: Checkpoint, name: str, axis: str) -> str | None:
    words = checkpoint.words(name)
    if (words == words.flat[0]).all():
        return None
    return (
        f"'{name}' scales each channel of {axis} by its own factor, which no rotation leaves alone; "
        "fold it into the weights that read it first (scramble fold)"
    )


def redrawn(manifest: Manifest, elements: Elements, architecture: Architecture, count: int) -> list[Stage]:
    """Other elements of the groups that a manifest's were drawn from: placebos for an alignment.

    Returns:
        `count` stages. Every step of each is unlike the recorded step, unless its group is so small that
        tries run out; in a small group, stages repeat.
    """
    return [
        [pair for step in manifest.steps for pair in _redrawn(step, elements, architecture, number)]
        for number in range(count)
    ]


def _redrawn(step: Step, elements: Elements, architecture: Architecture, number: int) -> Stage:
    chosen, true = symmetry(step.symmetry, step.options), [one.element(elements) for one in step.elements]
    for attempt in range(_TRIES):
        seed = step.seed + _PLACEBO_SEED * (1 + _TRIES * number + attempt)
        drawn = chosen.draw(architecture, seed, step.layer)
        if any(not np.array_equal(one.data, other.data) for one, other in zip(drawn, true, strict=True)):
            break
    return [(step.layer, element) for element in drawn]


def recorded(manifest: Manifest, elements: Elements, checkpoint: Checkpoint) -> Stage:
    """The elements of a whole manifest, for a checkpoint that they fit.

    Raises:
        ManifestError: another family or shape, or they do not touch the tensors that the manifest lists.
    """
    family = checkpoint.architecture.family.name
    if manifest.family != family:
        raise ManifestError(f"a manifest of {manifest.family}, the checkpoint is {family}")
    forward = recall(checkpoint.architecture, manifest.steps, elements)
    touched: set[str] = set()
    for done in manifest.scrambles:
        touched |= resolve(checkpoint, recall(checkpoint.architecture, done.steps, elements)).keys()
    # A tied head may be stored or not, before training and after: what happens to it follows from the steps.
    head = head_and_embedding(checkpoint.architecture.slots()) or ()
    if odd := sorted((touched ^ manifest.touched.keys()) - {*head}):
        raise ManifestError(f"the manifest's steps and its list of tensors disagree on '{odd[0]}'")
    return forward
