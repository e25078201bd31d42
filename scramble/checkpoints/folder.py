"""A Hugging Face checkpoint folder, opened for reading: config, shards, tensors by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from scramble.architecture import Architecture, Role
from scramble.architecture.axes import Array
from scramble.checkpoints.recognise import refuse_adapter, refuse_other_form
from scramble.checkpoints.shard import Shard, TensorEntry, read_shard
from scramble.checkpoints.storage import STORAGES, Storage
from scramble.errors import CheckpointError, UnknownFamilyError
from scramble.families import architecture, untabled
from scramble.families.tie import is_tied, stated

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose headers are read and checked; tensors are mapped when asked for.

    Attributes:
        unheld: tensors that the index names and no shard holds.
    """

    folder: Path
    config: dict[str, Any]
    shards: tuple[Shard, ...]
    unheld: tuple[str, ...] = ()

    @cached_property
    def tensors(self) -> dict[str, TensorEntry]:
        return {name: entry for shard in self.shards for name, entry in shard.tensors.items()}

    @cached_property
    def architecture(self) -> Architecture:
        """The family's table, checked against the tensors that are here.

        Raises:
            UnknownFamilyError: no such family, or a tensor that does not fit its table.
        """
        found = architecture(self.config, self.tensors)
        found.check({name: entry.shape for name, entry in self.tensors.items()})
        return found

    @cached_property
    def tied(self) -> Mapping[str, str]:
        """The output head to the embedding that the config ties it to, whether the head is stored or not.

        Empty where the config does not tie them; without a table also where they are not both stored.
        """
        pair: tuple[str, str] | None
        try:
            pair = self.architecture.head_and_embedding
        except UnknownFamilyError:  # its updates can be counted all the same
            pair = untabled.head_and_embedding(self.tensors)
        if pair is None or (stated(self.config) is None and not self._is_copy(*pair)):
            return {}
        return dict([pair]) if is_tied(self.config) else {}

    def _is_copy(self, head: str, embedding: str) -> bool:
        """Whether a head, if it is stored, holds the embedding's words."""
        return head not in self.tensors or np.array_equal(self.words(head), self.words(embedding))

    def entry(self, name: str) -> TensorEntry:
        """Where a tensor is stored: of a tied head that is not, its embedding."""
        return self.tensors[name if name in self.tensors else self.tied.get(name, name)]

    def holds(self, name: str) -> bool:
        """Whether a tensor is stored, or a head that is tied to one that is."""
        return name in self.tensors or self.tied.get(name) in self.tensors

    def words(self, name: str) -> Array:
        """Stored words of a tensor, a read-only memory map."""
        return self.entry(name).words()

    def storage(self, name: str) -> Storage:
        """How a tensor's words stand for numbers.

        Raises:
            CheckpointError: not a plain float.
        """
        return self.entry(name).storage

    @cached_property
    def roles(self) -> Mapping[str, Role]:
        """What the weights are, by the family's table; `left_out` are not among them."""
        return self._told[0]

    @cached_property
    def left_out(self) -> Mapping[str, str]:
        """Tensors that are not counted, and why: buffers, what is not stored as plain floats, or nowhere."""
        return self._told[1]

    @cached_property
    def _told(self) -> tuple[dict[str, Role], dict[str, str]]:
        shapes = {name: entry.shape for name, entry in self.tensors.items()}
        try:
            quantised = self.architecture.quantised(shapes)
            parts = {part: whole for whole, held in quantised.items() for part in held}
            roles = {name: self.architecture.role(name) for name in shapes.keys() - parts.keys()}
        except UnknownFamilyError:  # its updates can be counted all the same
            opaque = {name for name, entry in self.tensors.items() if entry.dtype not in STORAGES}
            parts, roles = untabled.scales(shapes, opaque), untabled.roles(self.config, shapes)
        out = dict.fromkeys(self.unheld, "named by the index, stored in no shard")
        for name, entry in self.tensors.items():
            if entry.dtype not in STORAGES:
                out[name] = f"stored as {entry.dtype}"
            elif name in parts:
                out[name] = f"a part of the quantised '{parts[name]}'"
            elif roles[name] == "buffer":
                out[name] = "a buffer"
        return {name: roles[name] for name in self.tensors if name not in out}, out

    @cached_property
    def parameters(self) -> list[str]:
        """Names of the weights, each once: without `left_out`, and without a head that is the embedding.

        Raises:
            CheckpointError: the config ties the head to the embedding, and another head is stored.
        """
        names = list(self.roles)
        for head, embedding in self.tied.items():
            if not self._is_copy(head, embedding):
                raise CheckpointError(f"{self.folder}: {head} is tied, but differs from {embedding}")
            names = [name for name in names if name != head]
        return names

    def place(self, shard: Shard) -> str:
        """The name of a shard's file within the folder."""
        return shard.path.relative_to(self.folder).as_posix()

    def tensor_hash(self, name: str) -> str:
        return hashlib.sha256(self.words(name).data).hexdigest()

    def hash(
        self, touched: Iterable[str] = (), *, full: bool = False, known: Mapping[str, str] | None = None
    ) -> str:
        """Digest of config, headers and sizes, and of the bytes of the `touched` tensors or of every file.

        Args:
            known: `tensor_hash` of tensors that have been read already.
        """
        known = known or {}
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode())
        for shard in self.shards:
            digest.update(f"{self.place(shard)} {shard.size}".encode())
            digest.update(shard.header)
            if full:
                with shard.path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        for name in () if full else sorted(touched):
            digest.update((known.get(name) or self.tensor_hash(name)).encode())
        return digest.hexdigest()


def open_checkpoint(folder: Path, *, suffix: str = "", described_by: Path | None = None) -> Checkpoint:
    """Open a folder for reading.

    Args:
        suffix: what stands behind the names of shards and config (in staging folders).
        described_by: where `config.json` and the index are, if not in the folder.

    Raises:
        CheckpointError: missing, damaged, stored as pickles, an index that leaves the folder, or an adapter.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    refuse_adapter(folder)
    if not (described_by or folder / f"config.json{suffix}").exists():
        refuse_other_form(folder)
    config = _read_json(described_by / "config.json" if described_by else folder / f"config.json{suffix}")
    if isinstance(named := config.get("transformers_weights"), str):
        raise CheckpointError(
            f"{folder / 'config.json'}: transformers_weights makes transformers load {named}; "
            f"name the weights {SINGLE} or by {INDEX}, and take it out"
        )
    names, listed = shard_names(described_by) if described_by else shard_names(folder, suffix)
    shards = tuple(read_shard(folder / (name + suffix)) for name in names)
    unheld = listed.difference(*(shard.tensors for shard in shards))
    checkpoint = Checkpoint(folder, config, shards, tuple(sorted(unheld)))
    if len(checkpoint.tensors) != sum(len(shard.tensors) for shard in checkpoint.shards):
        raise CheckpointError(f"{folder}: two shards hold a tensor of the same name")
    if not checkpoint.tensors:
        raise CheckpointError(f"{folder}: no tensors")
    return checkpoint


def shard_names(folder: Path, suffix: str = "") -> tuple[list[str], set[str]]:
    """Shards by their names within the folder, and the tensors that the index names.

    A single file counts where it is beside an index, as for transformers.
    """
    if (folder / (SINGLE + suffix)).exists():
        return [SINGLE], set()
    if not (folder / INDEX).exists():
        refuse_other_form(folder)
        pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        if pickles:
            raise CheckpointError(
                f"{folder}: only pickled weights ({pickles[0]}), which are never read; "
                "convert them to safetensors first"
            )
        raise CheckpointError(f"{folder}: neither {SINGLE} nor {INDEX} is there")
    weight_map = _read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{folder / INDEX}: no weight_map")
    names = sorted(set(map(str, weight_map.values())))
    for name in names:
        path = PurePosixPath(name)
        # Files may be links, as in a hub's cache; a folder that is one could lie anywhere.
        inside = not path.is_absolute() and ".." not in path.parts and "\\" not in name
        if not inside or not name.endswith(".safetensors") or _leaves(folder, path):
            raise CheckpointError(
                f"{folder / INDEX}: names '{name}', which is not a safetensors file of the folder"
            )
    return names, set(map(str, weight_map))


def _leaves(folder: Path, name: PurePosixPath) -> bool:
    return not (folder / name).parent.resolve().is_relative_to(folder.resolve())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return content
