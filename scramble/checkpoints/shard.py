"""One safetensors file: its header, checked, and its tensors as memory maps."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scramble.architecture.axes import Array
from scramble.checkpoints.storage import STORAGES, Storage
from scramble.errors import CheckpointError

# Bytes an item, for dtypes that are carried along without being read (safetensors format, README).
_OPAQUE = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1} | {
    name + str(bits): bits // 8 for name in ("U", "I") for bits in (16, 32, 64)
}
_LARGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies: byte range in its file, shape, safetensors dtype name."""

    name: str
    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def storage(self) -> Storage:
        """How the words stand for numbers.

        Raises:
            CheckpointError: stored in a format that is not a plain float.
        """
        if self.dtype not in STORAGES:
            raise CheckpointError(
                f"{self.path}: '{self.name}' is stored as {self.dtype}; only {', '.join(STORAGES)} are read"
            )
        return STORAGES[self.dtype]

    def words(self) -> Array:
        """The stored words, a read-only memory map.

        Raises:
            CheckpointError: stored in a format that is not a plain float.
        """
        return self._mapped(self.storage.word, self.shape)

    def read(self, low: int, out: Array) -> None:
        """Fill `out` with words of the flattened tensor, from word `low` on, without mapping them.

        Raises:
            CheckpointError: the file has become shorter.
        """
        file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            at, view = self.start + low * out.itemsize, memoryview(out.data).cast("B")
            while view:
                got = os.preadv(file, [view], at)
                if not got:
                    raise CheckpointError(f"{self.path}: truncated while it was read")
                at, view = at + got, view[got:]
        finally:
            os.close(file)

    def bytes(self) -> Array:
        """What is stored, whatever its format: a read-only memory map."""
        return self._mapped(np.dtype(np.uint8), (self.stop - self.start,))

    def _mapped(self, word: np.dtype[np.generic], shape: tuple[int, ...]) -> Array:
        if self.start == self.stop:
            return np.empty(shape, word)
        return np.memmap(self.path, word, mode="r", offset=self.start, shape=shape)


@dataclass(frozen=True)
class Shard:
    """A safetensors file whose header has been checked against its size."""

    path: Path
    header: bytes
    size: int
    tensors: dict[str, TensorEntry]


def read_shard(path: Path) -> Shard:
    """Read and check a header.

    Raises:
        CheckpointError: missing, truncated or not a safetensors file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, _LARGEST_HEADER):
                raise CheckpointError(f"{path}: truncated, or not a safetensors file ({size} bytes)")
            header = file.read(length)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: the shard is missing; download the checkpoint again") from None
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from None
    try:
        entries = json.loads(header)
        tensors = {
            name: _entry(name, path, entry, 8 + length)
            for name, entry in entries.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{path}: the safetensors header cannot be read") from None
    at = 8 + length
    for entry in sorted(tensors.values(), key=lambda entry: (entry.start, entry.stop)):
        if entry.start != at:
            raise CheckpointError(f"{path}: '{entry.name}' does not start where the tensor before it ends")
        at = entry.stop
    if at != size:
        raise CheckpointError(f"{path}: truncated or padded, the header says {at} bytes, the file has {size}")
    return Shard(path, header, size, tensors)


def _entry(name: str, path: Path, entry: dict[str, object], data: int) -> TensorEntry:
    dtype, shape, offsets = str(entry["dtype"]), entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or not isinstance(offsets, list):
        raise ValueError
    if any(type(number) is not int or number < 0 for number in [*shape, *offsets]):
        raise CheckpointError(f"{path}: '{name}' has shape {shape} at {offsets}, which are no sizes")
    start, stop = offsets
    item = STORAGES[dtype].word.itemsize if dtype in STORAGES else _OPAQUE.get(dtype)
    if start < 0 or stop < start or (item is not None and stop - start != item * math.prod(shape)):
        raise CheckpointError(f"{path}: '{name}' is {dtype} {shape} but occupies {stop - start} bytes")
    return TensorEntry(name, path, dtype, tuple(shape), data + start, data + stop)
