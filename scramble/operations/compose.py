"""Recorded scrambles as one map, for tensors and updates in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scramble.architecture.axes import Array
from scramble.checkpoints import Checkpoint, locate, open_checkpoint
from scramble.errors import ManifestError, MismatchError
from scramble.symmetries import act
from scramble.transforms.actions import Stage, inverse, recorded, resolve_tied
from scramble.transforms.manifest import read_manifest

if TYPE_CHECKING:
    from jaxtyping import Float64


@dataclass(frozen=True)
class Transform:
    """A composition of group elements that acts on the tensors of one architecture.

    Attributes:
        checkpoint: a checkpoint of the architecture, for names and shapes.
        stage: the elements, in the order in which they act.
    """

    checkpoint: Checkpoint
    stage: Stage

    def __call__(self, tensors: Mapping[str, Any]) -> dict[str, Float64[np.ndarray, ...]]:
        """The images of tensors, unrounded: weights, or updates, which transform alike.

        Args:
            tensors: name to array (numpy or torch, any float dtype). Where tensors trade names, as experts
                do, those that a name is made of must be there too.

        Returns:
            float64 arrays under the same names.

        Raises:
            MismatchError: a tensor of another shape, or one that another is made of is missing.
        """
        actions, sizes = resolve_tied(self.checkpoint, self.stage), self.checkpoint.architecture.sizes
        images = {}
        for name in tensors:
            action = actions.get(name)
            source = action.source if action and name not in self.checkpoint.tied else name
            if source not in tensors:
                raise MismatchError(f"'{name}' is made of '{source}', which is not among the tensors")
            values = _float64(tensors[source])
            try:
                images[name] = act(values, action.layout, sizes, action.elements) if action else values
            except ValueError as error:
                raise MismatchError(f"'{name}': {error}") from None
        return images

    def inverse(self) -> Transform:
        """What undoes it."""
        return Transform(self.checkpoint, inverse(self.stage))

    def then(self, other: Transform) -> Transform:
        """This transform, then another of the same architecture."""
        if self.checkpoint.architecture.slots().keys() != other.checkpoint.architecture.slots().keys():
            raise MismatchError("the two transforms are of different architectures")
        return Transform(self.checkpoint, [*self.stage, *other.stage])


def compose(*models: str | Path) -> Transform:
    """The scrambles of one or more scrambled checkpoints as one transform, those of the first model first.

    Args:
        models: folders or hub ids with a `scramble.json`.

    Raises:
        ManifestError: no models, or one without a usable manifest.
        MismatchError: different architectures.
    """
    if not models:
        raise ManifestError("compose needs at least one scrambled checkpoint")
    transforms = []
    for model in models:
        folder = locate(model)
        checkpoint = open_checkpoint(folder)
        transforms.append(Transform(checkpoint, recorded(*read_manifest(folder), checkpoint)))
    whole = transforms[0]
    for further in transforms[1:]:
        whole = whole.then(further)
    return whole


def _float64(values: Any) -> Array:
    """numpy float64 of an array or a tensor; numpy has no bfloat16, so torch widens it."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)
