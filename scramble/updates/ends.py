"""A run as its two ends, `START:END`, read tensor by tensor in the raw or in the aligned frame."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt16

from scramble.checkpoints import STORAGES, Checkpoint, locate, open_checkpoint
from scramble.errors import ManifestError, MismatchError, SelectionError
from scramble.manifest import Actions, actions, check_source, has_manifest, inverse_actions, read_manifest
from scramble.symmetries import act
from scramble.updates.masks import bf16_words, float32_values

Frame = Literal["raw", "aligned"]
FRAMES: tuple[Frame, ...] = ("raw", "aligned")


@dataclass(frozen=True)
class Update:
    """One tensor of one run: both ends as bf16 words, and the update in float32."""

    start: UInt16[np.ndarray, ...]
    end: UInt16[np.ndarray, ...]
    delta: Float32[np.ndarray, ...]


@dataclass(frozen=True)
class Run:
    """A run's start and end. Both hold the same tensors with the same shapes.

    Attributes:
        undo: what maps `end - start` of a scrambled start back to the base, by tensor.
        base: the checkpoint that was scrambled; None if the start was not.
    """

    start: Checkpoint
    end: Checkpoint
    name: str
    seed: int | None = None
    undo: Actions = field(default_factory=dict)
    base: Checkpoint | None = None

    @property
    def tensors(self) -> list[str]:
        """Names to count: a tied `lm_head` that is stored all the same is the embedding again."""
        tied = self.start.config.get("tie_word_embeddings") and "lm_head.weight" in self.start.tensors
        return [name for name in self.start.tensors if not (tied and name == "lm_head.weight")]

    def start_folder(self, name: str, frame: Frame) -> Path:
        """Where a tensor's start weights come from; equal folders hold equal weights."""
        if self.base is not None and (name not in self.undo or frame == "aligned"):
            return self.base.folder
        return self.start.folder

    def read(self, name: str, frame: Frame) -> Update:
        """One tensor. In the aligned frame the update is mapped back and added to the base, then rounded.

        Permutations are exact in every dtype. A rotation needs float32 ends.
        """
        start_storage, end_storage = self.start.storage(name), self.end.storage(name)
        start, end = self.start.words(name), self.end.words(name)
        delta = float32_values(end, end_storage) - float32_values(start, start_storage)
        start, end = bf16_words(start, start_storage), bf16_words(end, end_storage)
        if frame == "raw" or name not in self.undo or self.base is None:
            return Update(start, end, delta)
        layout, elements = self.undo[name]
        sizes = self.base.architecture.sizes
        if all(element.exact for element in elements):
            return Update(*(act(part, layout, sizes, elements) for part in (start, end, delta)))
        back = act(delta.astype(np.float64), layout, sizes, elements)
        words, storage = self.base.words(name), self.base.storage(name)
        moved = STORAGES["BF16"].encode(storage.decode(words) + back)
        return Update(bf16_words(words, storage), moved, back.astype(np.float32))


def open_run(text: str, *, aligned: bool = False, base: Path | None = None) -> Run:
    """Read `START:END`.

    Args:
        aligned: find the manifest of START and make ready to undo it.
        base: the checkpoint that was scrambled; by default the manifest's source. Its hash is checked.

    Raises:
        SelectionError: not START:END.
        MismatchError: the two ends do not hold the same tensors.
        ManifestError: the aligned frame was asked for and cannot be had; the message says why.
    """
    if text.count(":") != 1 or not all(text.split(":")):
        raise SelectionError(f"'{text}': a run is written START:END, two checkpoint folders")
    first, last = text.split(":")
    return ends(locate(first), locate(last), aligned=aligned, base=base)


def ends(start: Path, end: Path, *, aligned: bool = False, base: Path | None = None) -> Run:
    """The same from two folders."""
    opened, closed = open_checkpoint(start), open_checkpoint(end)
    _same_names(opened, closed)
    run = Run(opened, closed, str(end), _seed(end))
    if not aligned or not has_manifest(start):
        return run
    manifest, elements = read_manifest(start)
    origin = base or Path(manifest.scrambles[0].source.path)
    if not origin.is_dir():
        raise ManifestError(f"{start}: its base {origin} is not there; say where it is with --base")
    source = open_checkpoint(origin)
    check_source(manifest, source)
    undo = inverse_actions(actions(opened.architecture, opened.tensors, manifest.steps, elements))
    for name, (_, factors) in undo.items():
        if closed.tensors[name].dtype in ("BF16", "F16") and not all(factor.exact for factor in factors):
            raise ManifestError(
                f"{end}: the aligned frame needs a float32 end, '{name}' is {closed.tensors[name].dtype}: "
                "what rounding hid cannot be rotated back, and overlap would fall for that alone; "
                f"{_fp32_hint(end)}or use --frame raw"
            )
    return Run(opened, closed, run.name, run.seed, undo, source)


def _same_names(start: Checkpoint, end: Checkpoint) -> None:
    tied = {"lm_head.weight"} if start.config.get("tie_word_embeddings") else set[str]()
    if lost := sorted((start.tensors.keys() ^ end.tensors.keys()) - tied):
        raise MismatchError(f"{start.folder} and {end.folder}: '{lost[0]}' is in only one of them")
    for name in start.tensors.keys() & end.tensors.keys():
        one, other = start.tensors[name].shape, end.tensors[name].shape
        if one != other:
            raise MismatchError(f"'{name}' has shape {one} in {start.folder}, {other} in {end.folder}")


def same_model(runs: Sequence[Run]) -> None:
    """Refuse runs of different models.

    Raises:
        MismatchError: names or shapes differ.
    """
    for run in runs[1:]:
        _same_names(runs[0].start, run.start)


def _fp32_hint(end: Path) -> str:
    return f"use {end / 'fp32'} " if (end / "fp32" / "config.json").exists() else ""


def _seed(end: Path) -> int | None:
    """The seed of a run folder of ours that `end` lies in."""
    for folder in end.parents[:3]:
        if re.fullmatch(r"checkpoints", folder.name) and (folder.parent / "run.json").exists():
            seed = json.loads((folder.parent / "run.json").read_bytes()).get("seed")
            return seed if isinstance(seed, int) else None
    return None
