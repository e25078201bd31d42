"""One tensor of one run as a stream: its start and its end, block by block, from files or from memory."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float32, UInt16

from scramble.axes import Array
from scramble.checkpoints.shard import TensorEntry
from scramble.updates import kernels
from scramble.updates.masks import bf16_words, float32_values

Words = UInt16[np.ndarray, " n"]
Values = Float32[np.ndarray, " n"]


@dataclass(frozen=True)
class Update:
    """One tensor of one run.

    Attributes:
        start, end: as bf16 words.
        delta: the update, in float32; zero where either end is not finite.
        fine: whether the update is known more finely than bf16 rounding lets through.
        values: the start in float32, where it is stored more finely than bf16.
    """

    start: UInt16[np.ndarray, ...]
    end: UInt16[np.ndarray, ...]
    delta: Float32[np.ndarray, ...]
    fine: bool = True
    values: Float32[np.ndarray, ...] | None = None


@dataclass(frozen=True)
class Block:
    """A part of one end.

    Attributes:
        words: as bf16.
        delta: the update in float32; None if the difference of the words is all there is.
        fine: whether any value lies between two words, so that the update is finer than bf16 lets through.
    """

    words: Words
    delta: Values | None
    fine: bool


class Stream(Protocol):
    """A tensor of a run, flattened to n weights. Streams with one start have one `origin`."""

    @property
    def n(self) -> int: ...
    @property
    def origin(self) -> Hashable: ...

    def start(self, low: int, high: int) -> tuple[Words, Values | None]:
        """The start as bf16 words, and in float32 where it is stored more finely."""
        ...

    def end(self, low: int, high: int, start: Values | None, words: Words) -> Block:
        """The end, for a start that `start` gave."""
        ...


@dataclass(frozen=True)
class FileStream:
    """Read from two checkpoints as they are stored."""

    before: TensorEntry
    after: TensorEntry

    @property
    def n(self) -> int:
        return math.prod(self.before.shape)

    @property
    def origin(self) -> Hashable:
        return self.before.path, self.before.start

    def start(self, low: int, high: int) -> tuple[Words, Values | None]:
        words, values, _ = _read(self.before, low, high)
        return words, values

    def end(self, low: int, high: int, start: Values | None, words: Words) -> Block:
        ended, values, fine = _read(self.after, low, high)
        if values is None and start is None:
            return Block(ended, None, False)
        values = kernels.widened(ended) if values is None else values
        kernels.subtract(values, kernels.widened(words) if start is None else start, values)
        return Block(ended, values, fine)


@dataclass(frozen=True)
class ArrayStream:
    """From memory."""

    update: Update

    @property
    def n(self) -> int:
        return self.update.start.size

    @property
    def origin(self) -> Hashable:
        return id(self.update.start)

    def start(self, low: int, high: int) -> tuple[Words, Values | None]:
        values = self.update.values
        return _part(self.update.start, low, high), None if values is None else _part(values, low, high)

    def end(self, low: int, high: int, start: Values | None, words: Words) -> Block:
        delta = _part(self.update.delta, low, high)
        return Block(_part(self.update.end, low, high), delta, self.update.fine)


def _part(array: Array, low: int, high: int) -> Array:
    return np.ascontiguousarray(array.reshape(-1)[low:high])


def _read(entry: TensorEntry, low: int, high: int) -> tuple[Words, Values | None, bool]:
    """As bf16 words; as float32, if stored more finely; whether any value lies between two words."""
    stored = entry.read(low, high)
    if entry.dtype == "BF16":
        return stored, None, False
    values = float32_values(stored, entry.storage)
    words = np.empty(len(values), np.uint16)
    fine = kernels.narrow(values, words)
    if entry.dtype == "F64":  # rounded once, from what is stored
        words = bf16_words(stored, entry.storage)
    return words, values, fine
