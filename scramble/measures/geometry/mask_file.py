"""Masks in a file that training can use: one bit a weight, named as the weights are.

A safetensors file. Each tensor holds `numpy.packbits` of a mask in row-major order: uint8, the first weight
in the highest bit, the last byte filled with zeros. The metadata hold the shapes (`shapes`, JSON) and what
the mask is (`mask`, `rank`, `alpha`, `seed`, `start`, the hash of the checkpoint with its masked tensors).
Weights that have no mask, such as norms and biases, are not in it. Masks of several runs are named
`<number of the run>/<weight>`, from 0, with the runs in the metadata (`runs`, JSON).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scramble.errors import CheckpointError, TargetError
from scramble.files import write_whole

if TYPE_CHECKING:
    from jaxtyping import Bool, UInt8


class MaskFile:
    """Masks that wait to be written, packed as they come."""

    def __init__(self) -> None:
        self._packed: dict[str, list[UInt8[np.ndarray, " bytes"]]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}

    def add(self, tensor: str, mask: Bool[np.ndarray, "..."], index: tuple[int, ...] = ()) -> None:
        """The mask of a weight, by the weight's name; those of a stack in the order of `index`."""
        packed = self._packed.setdefault(tensor, [])
        packed.append(np.packbits(mask))
        self._shapes[tensor] = (len(packed), *mask.shape) if index else mask.shape

    def write(self, path: Path, about: Mapping[str, object], *, force: bool = False) -> None:
        """Write the file, whole or not at all; `about` goes into its metadata as text.

        Raises:
            TargetError: the file exists (without `force`), or cannot be written.
        """
        from safetensors.numpy import save

        refuse_existing(path, force)
        metadata = {key: str(value) for key, value in about.items()}
        metadata |= {"shapes": json.dumps(self._shapes), "packing": "numpy.packbits"}
        try:
            write_whole(path, save({name: self._joined(name) for name in self._packed}, metadata))
        except OSError as error:
            raise TargetError(f"{path}: cannot be written ({error.strerror})") from None

    def _joined(self, tensor: str) -> UInt8[np.ndarray, " bytes"]:
        parts = self._packed[tensor]
        bits = math.prod(self._shapes[tensor]) // len(parts)
        if len(parts) == 1 or bits % 8 == 0:
            return np.concatenate(parts)
        return np.packbits(np.concatenate([np.unpackbits(part, count=bits) for part in parts]))


def read_masks(path: Path) -> dict[str, Bool[np.ndarray, "..."]]:
    """Masks by the name of their weight.

    Raises:
        CheckpointError: missing, damaged, or not written by `MaskFile`.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            shapes = json.loads((file.metadata() or {})["shapes"])
            packed = {name: file.get_tensor(name) for name in shapes}
        return {
            name: np.unpackbits(packed[name], count=math.prod(shape)).reshape(shape).astype(bool)
            for name, shape in shapes.items()
        }
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: not a file of masks ({error})") from None


def read_about(path: Path) -> dict[str, str]:
    """What the masks are, as `MaskFile.write` was told.

    Raises:
        CheckpointError: missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a file of masks ({error})") from None


def refuse_existing(path: Path, force: bool) -> None:
    """Before anything is computed.

    Raises:
        TargetError: the file exists and is not to be replaced, or its folder is missing.
    """
    if path.exists() and not force:
        raise TargetError(f"{path}: exists; name another file, or replace it with --force")
    if not path.parent.is_dir():
        raise TargetError(f"{path}: its folder {path.parent} does not exist")
