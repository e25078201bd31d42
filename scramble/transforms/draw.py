"""Drawing elements: those of a scramble, with their records, and wrong ones of the same groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scramble.architecture.axes import Array
from scramble.checkpoints import Checkpoint
from scramble.symmetries import Element, Symmetry, symmetry
from scramble.transforms.manifest import ElementRecord, Step
from scramble.transforms.plan import Stage, Transform
from scramble.transforms.record import Record

_PLACEBO_SEED = 1_000_003  # seeds of placebos are far from those that people count up from theirs
_TRIES = 20


@dataclass(frozen=True)
class Drawn:
    """A new scramble.

    Attributes:
        transform: what it does.
        steps: its record, for the manifest.
        elements: the data of its elements, by the keys that the steps name.
    """

    transform: Transform
    steps: tuple[Step, ...]
    elements: Mapping[str, Array]


def draw(
    checkpoint: Checkpoint,
    requests: Sequence[tuple[Symmetry, Sequence[int | None]]],
    seed: int,
    prefix: str,
) -> Drawn:
    """Draw every requested symmetry for its layers; keys of the elements begin with `prefix`."""
    architecture = checkpoint.architecture
    steps: list[Step] = []
    stored: dict[str, Array] = {}
    stage: list[tuple[int | None, Element]] = []
    for at, (chosen, layers) in enumerate(requests):
        for layer in layers:
            where = "model" if layer is None else layer
            records = []
            for element in chosen.draw(architecture, seed, layer):
                key = f"{prefix}.{at}.{chosen.name}.{where}.{element.axis}"
                stored[key] = element.data
                stage.append((layer, element))
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
    return Drawn(Transform(checkpoint, stage), tuple(steps), stored)


def placebos(record: Record, checkpoint: Checkpoint, count: int) -> list[Transform]:
    """Other elements of the groups that a manifest's were drawn from: placebos for an alignment.

    Returns:
        `count` transforms. Every step of each is unlike the recorded step, unless its group is so small that
        tries run out; in a small group, transforms repeat.
    """
    return [
        Transform(
            checkpoint,
            [pair for step in record.manifest.steps for pair in _redrawn(step, record, checkpoint, number)],
        )
        for number in range(count)
    ]


def _redrawn(step: Step, record: Record, checkpoint: Checkpoint, number: int) -> Stage:
    chosen = symmetry(step.symmetry, step.options)
    true = [one.element(record.elements) for one in step.elements]
    for attempt in range(_TRIES):
        seed = step.seed + _PLACEBO_SEED * (1 + _TRIES * number + attempt)
        drawn = chosen.draw(checkpoint.architecture, seed, step.layer)
        if any(not np.array_equal(one.data, other.data) for one, other in zip(drawn, true, strict=True)):
            break
    return [(step.layer, element) for element in drawn]
