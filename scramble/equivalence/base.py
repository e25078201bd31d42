"""The base of a comparison, read under the names of the model that is compared with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scramble.architecture.axes import Array
from scramble.checkpoints import STORAGES, Checkpoint


@dataclass(frozen=True)
class Base:
    """The base's weights under the model's names."""

    checkpoint: Checkpoint

    def words(self, name: str) -> Array:
        return self.checkpoint.words(name)

    def is_stored_in(self, model: Checkpoint, name: str) -> bool:
        """Whether a model holds the same words; those that are not read (masks of bools) byte by byte."""
        one, other = self.checkpoint.entry(name), model.tensors[name]
        if one.dtype not in STORAGES:
            return np.array_equal(one.bytes(), other.bytes())
        return np.array_equal(one.words(), other.words())

    def values(self, name: str) -> Array:
        return self.checkpoint.storage(name).decode(self.words(name))
