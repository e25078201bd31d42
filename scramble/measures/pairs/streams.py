"""One tensor of one run as a stream: its start and its end, block by block, from files or from memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float32, UInt16

from scramble.architecture.axes import Array
from scramble.checkpoints.shard import TensorEntry
from scramble.measures.pairs import bits
from scramble.measures.pairs.masks import bf16_words, float32_values

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

    start: UInt16[np.ndarray, "..."]
    end: UInt16[np.ndarray, "..."]
    delta: Float32[np.ndarray, "..."]
    fine: bool = True
    values: Float32[np.ndarray, "..."] | None = None

    def taken(self, take: Callable[[Array], Array]) -> Update:
        """A part of every array, or another shape of it."""
        values = None if self.values is None else take(self.values)
        return Update(take(self.start), take(self.end), take(self.delta), self.fine, values)


class Stream(Protocol):
    """A tensor of a run, flattened to n weights. Streams with one start have one `origin`.

    Blocks are written into arrays of the caller, which are used again and again.
    """

    @property
    def n(self) -> int: ...
    @property
    def origin(self) -> Hashable: ...
    @property
    def fine_start(self) -> bool:
        """Whether the start is stored more finely than bf16."""
        ...

    @property
    def fine_end(self) -> bool:
        """Whether the update is more than the difference of bf16 words."""
        ...

    def start(self, low: int, words: Words, values: Values | None) -> None:
        """A block of the start from weight `low` on, as bf16 words and, if asked for, in float32."""
        ...

    def end(self, low: int, start: Values | None, words: Words, delta: Values | None) -> bool:
        """The same block of the end as bf16 words, and the update; whether any end lies between two words.

        Where no run of several has an update finer than its words, `start` and `delta` are None.
        """
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

    @property
    def fine_start(self) -> bool:
        return self.before.dtype != "BF16"

    @property
    def fine_end(self) -> bool:
        return self.after.dtype != "BF16" or self.fine_start

    def start(self, low: int, words: Words, values: Values | None) -> None:
        _read(self.before, low, words, values)

    def end(self, low: int, start: Values | None, words: Words, delta: Values | None) -> bool:
        fine = _read(self.after, low, words, delta)
        if delta is not None and start is not None:
            bits.subtract(delta, start, delta)
        return fine


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

    @property
    def fine_start(self) -> bool:
        return self.update.values is not None

    @property
    def fine_end(self) -> bool:
        return True

    def start(self, low: int, words: Words, values: Values | None) -> None:
        words[:] = _part(self.update.start, low, words)
        if values is not None and self.update.values is not None:
            values[:] = _part(self.update.values, low, words)
        elif values is not None:
            bits.widen(words, values)

    def end(self, low: int, start: Values | None, words: Words, delta: Values | None) -> bool:
        words[:] = _part(self.update.end, low, words)
        if delta is not None:
            delta[:] = _part(self.update.delta, low, words)
        return self.update.fine


def _part(array: Array, low: int, like: Array) -> Array:
    return array.reshape(-1)[low : low + len(like)]


def _read(entry: TensorEntry, low: int, words: Words, values: Values | None) -> bool:
    """As bf16 words and, if asked for, as float32; whether any value lies between two words."""
    if entry.dtype == "BF16":
        entry.read(low, words)
        if values is not None:
            bits.widen(words, values)
        return False
    values = np.empty(len(words), np.float32) if values is None else values
    if entry.dtype == "F32":
        entry.read(low, values)
        return bool(bits.narrow(values, words))
    stored = np.empty(len(words), entry.storage.word)
    entry.read(low, stored)
    values[:] = float32_values(stored, entry.storage)
    fine = bool(bits.narrow(values, words))
    words[:] = bf16_words(stored, entry.storage)  # rounded once, from what is stored
    return fine
