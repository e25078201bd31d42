"""A checkpoint pair, `START:END`, read tensor by tensor in the raw or in the aligned frame."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from glob import escape
from operator import itemgetter
from pathlib import Path
from typing import Literal

import numpy as np

from scramble.architecture.axes import Array
from scramble.checkpoints import STORAGES, Checkpoint, Storage, locate, open_checkpoint
from scramble.errors import ManifestError, MismatchError, SelectionError, UnknownFamilyError
from scramble.families.tie import stated
from scramble.measures.pairs.masks import bf16_words, float32_values
from scramble.measures.pairs.places import Places
from scramble.measures.pairs.streams import FileStream, Update
from scramble.runfolder import RunFolder, run_of
from scramble.symmetries import act
from scramble.transforms.draw import placebos as draw_placebos
from scramble.transforms.plan import Actions
from scramble.transforms.record import check_scrambled, check_source, find_record

Frame = Literal["raw", "aligned"]
FRAMES: tuple[Frame, ...] = ("raw", "aligned")
PLACEBO = "placebo-"
"""What the frame of a wrong alignment is called in tables, before its number."""


@dataclass(frozen=True, repr=False)
class CheckpointPair:
    """The start and the end of a run. Both hold the same tensors with the same shapes.

    Attributes:
        start: the checkpoint before training.
        end: the checkpoint after it.
        name: the text that names the end in tables.
        seed: of the run; None where it is not known.
        undo: what maps `end - start` of a scrambled start back to the base, by tensor.
        base: the checkpoint that was scrambled; None if the start was not.
        placebos: the same for wrong elements of the same groups, which map it back to no frame of anything.
    """

    start: Checkpoint
    end: Checkpoint
    name: str
    seed: int | None = None
    undo: Actions = field(default_factory=dict)
    base: Checkpoint | None = None
    placebos: tuple[Actions, ...] = ()

    def __repr__(self) -> str:
        seed = "" if self.seed is None else f", seed {self.seed}"
        return f"<CheckpointPair {self.start.folder}:{self.end.folder}{seed}>"

    @cached_property
    def _places(self) -> Places:
        try:
            return Places(self.start.tensors, self.start.architecture.slots())
        except UnknownFamilyError:  # its updates can be counted all the same
            return Places(self.start.tensors)

    def where(self, name: str) -> dict[str, object]:
        """What a tensor is, or one of a stack.

        Args:
            name: of the tensor, or `NAME[3]` for the fourth of a stack.

        Returns:
            `tower` (where there are several), `layer`, `module`, `tensor` and `role`.
        """
        return self._places(name) | {"role": self.start.roles[self.part(name)[0]]}

    def part(self, name: str) -> tuple[str, tuple[int, ...]]:
        """The stored tensor that a name means, and the index in it.

        Args:
            name: of the tensor, or `NAME[3]` for the fourth of a stack.

        Returns:
            The name of the stored tensor, and the index, empty for the whole.
        """
        found = re.fullmatch(r"(.+)\[(\d+)\]", name)
        if found is None or name in self.start.tensors:
            return name, ()
        return found[1], (int(found[2]),)

    @property
    def tensors(self) -> list[str]:
        """Names of the weights to count, tied ones once."""
        return self.start.parameters

    def stream(self, name: str) -> FileStream:
        """One tensor as it is stored, to be read block by block.

        Args:
            name: of the stored tensor.

        Returns:
            Its bytes at both ends.
        """
        return FileStream(self.start.tensors[name], self.end.tensors[name])

    def read(self, name: str, frame: Frame, placebo: int | None = None) -> Update:
        """One tensor, or one of a stack (`part`).

        In the aligned frame the update is mapped back and added to the base, then rounded. Permutations are
        exact in every dtype. A rotation needs float32 ends.

        Args:
            name: of the tensor, or `NAME[3]` for the fourth of a stack.
            frame: `raw` or `aligned`.
            placebo: map the update back by this one of the wrong elements.

        Returns:
            bf16 bit patterns of both ends, and the update in float32.
        """
        name, index = self.part(name)
        undo = self.undo if placebo is None else self.placebos[placebo]
        aligned = frame == "aligned" and name in undo and self.base is not None
        if aligned and index:
            return self.read(name, frame, placebo).taken(itemgetter(index))
        there = undo[name].source if aligned else name
        start_storage, end_storage = self.start.storage(there), self.end.storage(there)
        # A scalar tensor stays an array.
        start, end = (np.asarray(side.words(there)[index]) for side in (self.start, self.end))
        before = float32_values(start, start_storage)
        with np.errstate(invalid="ignore", over="ignore"):
            delta = float32_values(end, end_storage) - before
        delta = np.where(np.isfinite(delta), delta, np.float32(0))  # a scalar's difference is no array
        fine, values = not _on_grid(end, end_storage), None if start_storage.name == "BF16" else before
        start, end = bf16_words(start, start_storage), bf16_words(end, end_storage)
        if not aligned or self.base is None:
            return Update(start, end, delta, fine, values)
        layout, elements = undo[name].layout, undo[name].elements
        sizes = self.base.architecture.slots()[name].sizes
        if undo[name].exact and placebo is None:
            moved = [act(part, layout, sizes, elements) for part in (start, end, delta)]
            values = None if values is None else act(values, layout, sizes, elements)
            return Update(moved[0], moved[1], moved[2], fine, values)
        back = act(delta.astype(np.float64), layout, sizes, elements)
        words, storage = self.base.words(name), self.base.storage(name)
        landed = STORAGES["BF16"].encode(storage.decode(words) + back)
        values = None if storage.name == "BF16" else float32_values(words, storage)
        return Update(bf16_words(words, storage), landed, back.astype(np.float32), fine, values)


def _on_grid(words: Array, storage: Storage) -> bool:
    if storage.name == "BF16":
        return True
    values = storage.decode(words)
    return bool(np.array_equal(STORAGES["BF16"].decode(bf16_words(words, storage)), values))


def open_run(
    run: str | tuple[str | Path, str | Path],
    *,
    aligned: bool = False,
    base: Path | None = None,
    placebos: int = 0,
) -> CheckpointPair:
    """Read `START:END` (see `split`), or a pair (START, END) of folders or hub ids.

    Args:
        aligned: find the manifest of START and make ready to undo it.
        base: the checkpoint that was scrambled; by default the manifest's source. Its hash is checked.
        placebos: how many wrong alignments to make ready beside the true one.

    Raises:
        SelectionError: not START:END.
        MismatchError: the two ends do not hold the same tensors.
        ManifestError: the aligned frame was asked for and cannot be had; the message says why.
    """
    first, last = split(run) if isinstance(run, str) else run
    return ends(locate(first), locate(last), aligned=aligned, base=base, placebos=placebos)


def split(text: str) -> tuple[str, str]:
    r"""START and END of `START:END`. Of several colons the one between two folders counts, and never `\:`.

    Raises:
        SelectionError: no colon parts the text in two, or it is not clear which.
    """
    parts = re.split(r"(?<!\\):", text)
    pairs = [(":".join(parts[:at]), ":".join(parts[at:])) for at in range(1, len(parts))]
    pairs = [(one.replace(r"\:", ":"), other.replace(r"\:", ":")) for one, other in pairs if one and other]
    # A hub id has no colon and need not be there.
    folders = [sum(Path(side).is_dir() for side in pair) for pair in pairs]
    best = [pair for pair, count in zip(pairs, folders, strict=True) if count == max(folders)]
    if not best:
        raise SelectionError(_no_run(text))
    if len(best) > 1:
        raise SelectionError(
            f"'{text}': a run is written START:END, and which colon parts them is not clear; "
            r"write \: for one that belongs to a path"
        )
    return best[0]


def _no_run(text: str) -> str:
    """Why a text without a colon is no run: it may be the name of a run folder without its hash."""
    path = Path(text)
    if path.exists():
        return (
            f"'{text}': not a run folder; a run is written START:END, two checkpoint folders, or a run folder"
        )
    near = sorted(found.name for found in path.parent.glob(f"{escape(path.name)}*") if path.name)
    meant = f"; is it {path.parent / near[0]}?" if near else ""
    return f"'{text}': no such run folder{meant} (a run is that, or two checkpoint folders START:END)"


def ends(
    start: Path, end: Path, *, aligned: bool = False, base: Path | None = None, placebos: int = 0
) -> CheckpointPair:
    """The same from two folders.

    Args:
        placebos: how many wrong alignments to make ready beside the true one, the same for every run of a
            start.
    """
    opened, closed = open_checkpoint(start), open_checkpoint(end)
    _same_names(opened, closed)
    run = CheckpointPair(opened, closed, str(end), _seed(end))
    record = find_record(start) if aligned else None
    if record is None or not record.is_scrambled:
        return run
    origin = base or Path(record.manifest.scrambles[0].source.path)
    if not origin.is_dir():
        raise ManifestError(f"{start}: its base {origin} is not there; say where it is with --base")
    source = open_checkpoint(origin)
    check_source(record.manifest, source)
    undo = record.transform(opened).inverse().actions
    check_scrambled(record.manifest, opened)
    for name, action in undo.items():
        if not action.exact and _is_rounded(opened, closed, action.source):
            raise ManifestError(
                f"{end}: the aligned frame needs a float32 end, '{name}' holds bf16 or fp16 values: "
                "what rounding hid cannot be rotated back, and overlap would fall for that alone; "
                f"{_fp32_hint(end)}or use --frame raw"
            )
    wrong = tuple(placebo.inverse().actions for placebo in draw_placebos(record, opened, placebos))
    return CheckpointPair(opened, closed, run.name, run.seed, undo, source, wrong)


def steps_of(folder: Path) -> tuple[Path, dict[int, Path]]:
    """START of a run folder, and its checkpoints by step.

    Raises:
        SelectionError: no run folder, or one that does not say where it began, or without checkpoints.
        DamagedRunError: it cannot be read.
    """
    run = RunFolder(folder)
    if (record := run.record) is None:
        raise SelectionError(f"{folder}: no run folder, it holds no run.json")
    if record.start is None:
        raise SelectionError(f"{folder / 'run.json'}: does not say where the run started")
    start = Path(record.start.path)
    if not start.is_dir():
        raise SelectionError(f"{folder}: its start {start} is not there; list its checkpoints as START:END")
    if not (steps := run.checkpoints):
        raise SelectionError(f"{folder}: no checkpoints/step-* in it")
    return start, steps


def _is_rounded(start: Checkpoint, end: Checkpoint, name: str) -> bool:
    """Whether an end's tensor holds 16-bit values, by its dtype or by its values (saved as float32 later)."""
    if end.storage(name).name in ("BF16", "F16"):
        return True
    old, new = (one.storage(name).decode(one.words(name)) for one in (start, end))
    rounded = any(
        np.array_equal(STORAGES[kind].decode(STORAGES[kind].encode(new)), new) for kind in ("BF16", "F16")
    )
    return rounded and not np.array_equal(old, new)


def _same_names(start: Checkpoint, end: Checkpoint) -> None:
    lost = sorted(set(start.parameters) ^ set(end.parameters))
    said = [stated(one.config) for one in (start, end)]
    if (None not in said and said[0] != said[1]) or (lost and {*lost} <= {*start.tied, *end.tied}):
        raise MismatchError(f"{start.folder} and {end.folder}: only one ties its head to the embedding")
    for whole, part in ((start, end), (end, start)):
        if unlike := [name for name in whole.parameters if name in part.left_out]:
            why = part.left_out[unlike[0]]
            raise MismatchError(f"'{unlike[0]}' is {why} in {part.folder} and a weight in {whole.folder}")
    if not start.parameters:
        raise MismatchError(
            f"{start.folder}: no weights stored as plain floats, so there is nothing to compare"
        )
    if lost:
        raise MismatchError(f"{start.folder} and {end.folder}: '{lost[0]}' is in only one of them")
    for name in start.parameters:
        one, other = start.tensors[name].shape, end.tensors[name].shape
        if one != other:
            raise MismatchError(f"'{name}' has shape {one} in {start.folder}, {other} in {end.folder}")


def comparable(runs: Sequence[CheckpointPair]) -> None:
    """Refuse runs of different models, and a run that is listed twice.

    Raises:
        MismatchError: names or shapes differ.
        SelectionError: two runs have one END.
    """
    ends_seen = [run.name for run in runs]
    if twice := [name for name in ends_seen if ends_seen.count(name) > 1]:
        raise SelectionError(f"{twice[0]}: the END of two runs; list every run once")
    for run in runs[1:]:
        _same_names(runs[0].start, run.start)


def _fp32_hint(end: Path) -> str:
    return f"use {end / 'fp32'} " if (end / "fp32" / "config.json").exists() else ""


def _seed(end: Path) -> int | None:
    """The seed of a run folder of ours that `end` lies in."""
    run = run_of(end)
    return run.record.seed if run and run.record else None
