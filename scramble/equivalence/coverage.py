"""What a comparison of logits must reach: the rows of tables, the experts and the tensors that differ.

Two models may compute one function on every token that was tried and another one elsewhere. So the tokens and
positions are chosen among the rows that differ. Where most rows of a table or a head do, as when the residual
stream was changed, all must be the same linear map of the base's rows: one row in many hardly shows. Every
tensor that differs is put into the base alone, and must show more than noise in its place does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scramble.architecture.axes import Array, Axis, Slot
from scramble.checkpoints import STORAGES, Checkpoint
from scramble.models.prompts import LENGTH, MOST_SEQUENCES, read_prompts
from scramble.models.routing import Routing, experts_that_differ

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int64

    from scramble.equivalence.base import Base
    from scramble.models.forward import Forward

SEQUENCES = 4
MOST_ROWS = LENGTH * MOST_SEQUENCES
# Rows of a table that are read together.
BLOCK = 4096
# Entries of a row that were rounded a few times, once a transform, are within this of the map.
ULPS = 8.0
ARITHMETIC = 1e-9
# With fewer rows, a fitted map follows each of them.
ROWS_A_CHANNEL = 4
AXES = ("vocab", "position")


@dataclass(frozen=True)
class Inputs:
    """What the models run on.

    Attributes:
        tokens: (batch, time).
        positions: of the tokens, None where they count from zero.
        missed: names of tables to their rows that should be visited but are not.
    """

    tokens: Int64[np.ndarray, "batch time"]
    positions: Int64[np.ndarray, "batch time"] | None = None
    missed: Mapping[str, Int64[np.ndarray, " rows"]] = field(default_factory=dict)


@dataclass(frozen=True)
class Differences:
    """Where a model's weights are not the base's."""

    base: Base
    model: Checkpoint
    names: Sequence[str]

    @cached_property
    def slots(self) -> dict[str, Slot]:
        """The tensors whose values differ; zeros of two signs are one value, and masks are no weights."""
        slots, tensors = self.model.architecture.slots(), self.model.tensors
        weights = [name for name in self.names if name in slots and tensors[name].dtype in STORAGES]
        return {name: slots[name] for name in weights if self.mask(name).any()}

    def values(self, name: str) -> Float64[np.ndarray, "..."]:
        """The model's values."""
        return self.model.storage(name).decode(self.model.words(name))

    def mask(self, name: str) -> Bool[np.ndarray, "..."]:
        """Which entries of a tensor differ."""
        found = np.asarray(self.base.words(name) != self.model.words(name))
        decode = self.model.storage(name).decode
        one, other = (decode(words[found]) for words in (self.base.words(name), self.model.words(name)))
        found[found] = one != other
        return found

    def size(self, name: str) -> float:
        """`||difference|| / ||weights||` of a tensor."""
        old = self.base.values(name)
        whole = float(np.linalg.norm(old))
        return float(np.linalg.norm(self.values(name) - old)) / whole if whole else 1.0

    def alone(
        self, noisy: Callable[[str], Array]
    ) -> dict[str, tuple[Callable[[], Array], Callable[[], Array]]]:
        """For `Forward`: values of each tensor that differs, and noise in its place; no routed experts."""
        return {
            name: (partial(self.values, name), partial(noisy, name))
            for name, slot in self.slots.items()
            if not slot.routed
        }

    def experts(self) -> Iterator[tuple[str, int, set[int]]]:
        """Name, layer and experts of every tensor of routed experts that differs."""
        for name, slot in self.slots.items():
            if slot.layer is not None and slot.routed:
                yield name, slot.layer, experts_that_differ(slot, self.mask(name))

    def unreached(self, *runs: Routing) -> dict[str, list[int]]:
        """Experts that differ and that no run reaches, in the base (0) and the stored model (1), by name."""
        found = {}
        for name, layer, experts in self.experts():
            reached = set[int]().union(*(run.by(layer, 0, 1) for run in runs))
            if experts - reached:
                found[name] = sorted(experts - reached)
        return found

    def unseen(self, inputs: Inputs, runs: Sequence[Forward]) -> tuple[str, str] | None:
        """A tensor that differs and of which the runs tell nothing, and why; None if there is none."""
        from scramble.models.arithmetic import RESOLUTION

        text = "give --prompts FILE with a text that reaches it"
        for name, rows in inputs.missed.items():
            return name, f"in {rows.size} rows that no input visits, the first is row {rows.min()}; {text}"
        for name, rows in self.astray.items():
            if rows.size:
                return name, (
                    f"in {rows.size} rows that are not changed as the others are, the farthest is {rows[0]}; "
                    "that is too few to show in the logits as a whole"
                )
        for name, experts in self.unreached(*(run.routing for run in runs)).items():
            return name, f"but no token is routed to expert {experts[0]}; {text}"
        seen = set[str]().union(*(run.seen for run in runs))
        for name in self.slots:
            if name in runs[0].alone and name not in seen:
                return name, (
                    "but alone it changes no more than rounding would, so nothing shows whether it is right; "
                    "only a manifest (scramble.json) has it compared weight by weight"
                )
            if name not in runs[0].alone and self.size(name) < RESOLUTION[runs[0].arithmetic]:
                return name, "by less than the arithmetic resolves"
        return None

    def rows(self, axis: str) -> dict[str, Int64[np.ndarray, " rows"]]:
        """Rows to visit, by table: one row a token (`vocab`) or a position; those that stand out come first.

        They are all that differ, or, if those are more than `MOST_ROWS`, all that stand out.
        """
        found = {}
        for name in self._tables(axis):
            differing, first = np.flatnonzero(self.mask(name).any(axis=1)), self.astray.get(name)
            if first is None:
                found[name] = differing
            elif differing.size > MOST_ROWS:
                found[name] = first
            else:
                found[name] = np.concatenate([first, np.setdiff1d(differing, first)])
        return found

    @cached_property
    def astray(self) -> dict[str, Int64[np.ndarray, " rows"]]:
        """Rows of tables and heads that are not, up to rounding, the linear map of the base's that most are.

        The farthest first. A table is not here if it has too few rows to say.
        """
        inputs, heads = (self._tables(*AXES), self._tables(*AXES, heads=True))
        found = {name: self._astray(name, self._beside(name)) for name in inputs}
        found |= {name: self._astray(name, [name]) for name in heads}
        return {name: rows for name, rows in found.items() if rows is not None}

    def _tables(self, *axes: str, heads: bool = False, every: bool = False) -> list[str]:
        """Tensors of one row a token or a position, at the inputs or the head; if they differ, or every."""
        architecture, found = self.model.architecture, list[str]()
        slots = architecture.slots()
        for name in self.model.tensors if every else self.slots:
            slot = slots.get(name)
            if slot is None or slot.layer is not None or not architecture.takes_part(name):
                continue
            shaped = len(slot.layout.dims) == 2 and slot.layout.dims[0] in [Axis(axis) for axis in axes]
            if shaped and architecture.is_head(name) == heads:
                found.append(name)
        return found

    def _beside(self, name: str) -> list[str]:
        """Tables whose rows are added to those of a table, so that one map must take them all."""
        slots = self.model.architecture.slots()
        width = slots[name].layout.dims[1]
        return [one for one in self._tables(*AXES, every=True) if slots[one].layout.dims[1] == width]

    def _astray(self, name: str, tables: Sequence[str]) -> Int64[np.ndarray, " rows"] | None:
        shared = self._map(tables)
        if shared is None:
            return None
        storage, excess = self.model.storage(name), []
        for old, new in self._blocks(name):
            scale = np.sqrt(np.mean(new**2, axis=1, keepdims=True))
            most = ULPS * storage.ulp(np.maximum(np.abs(new), scale)) + ARITHMETIC * scale
            with np.errstate(over="ignore"):  # of a row of zeros any difference is too much
                excess.append((np.abs(new - old @ shared) / most).max(axis=1))
        each = np.concatenate(excess)
        return np.argsort(-each, kind="stable")[: np.count_nonzero(each > 1)]

    def _map(self, tables: Sequence[str]) -> Float64[np.ndarray, "hidden hidden"] | None:
        """What takes the base's rows to the model's, by least squares; the identity if most are equal."""
        count = sum(self.model.tensors[name].shape[0] for name in tables)
        width = self.model.tensors[tables[0]].shape[1]
        if 2 * sum(np.count_nonzero(self.mask(name).any(axis=1)) for name in tables) < count:
            return np.eye(width)
        if count < ROWS_A_CHANNEL * width:
            return None
        gram, found = np.zeros((width, width)), np.zeros((width, width))
        for again in range(2):  # the second time refines what the squares of the first lost
            rest = np.zeros((width, width))
            for old, new in (pair for name in tables for pair in self._blocks(name)):
                if not again:
                    gram += old.T @ old
                rest += old.T @ (new - old @ found)
            found += np.linalg.lstsq(gram, rest, rcond=None)[0]
        return found

    def _blocks(self, name: str) -> Iterator[tuple[Float64[np.ndarray, "rows hidden"], ...]]:
        decode = self.model.storage(name).decode
        old, new = self.base.words(name), self.model.words(name)
        for start in range(0, len(old), BLOCK):
            yield tuple(decode(words[start : start + BLOCK]) for words in (old, new))


def default_inputs(base: Checkpoint, prompts: Path | None = None) -> Inputs:
    """Random tokens, or a text file's, cut into sequences of one length."""
    if prompts is not None:
        return Inputs(read_prompts(base.folder, prompts))
    shape = (SEQUENCES, min(LENGTH, _positions(base)))
    return Inputs(np.random.default_rng(0).integers(0, base.architecture.sizes["vocab"], shape))


def inputs_that_reach(base: Checkpoint, differences: Differences, prompts: Path | None = None) -> Inputs:
    """Tokens and positions that visit the rows that differ, with random ones beside; or a text file's."""
    tokens, positions = differences.rows("vocab"), differences.rows("position")
    found = default_inputs(base, prompts)
    length = found.tokens.shape[1]
    offset = base.architecture.family.first_position
    if prompts is None:
        wanted = np.unique(np.concatenate([*tokens.values(), np.empty(0, np.int64)])[:MOST_ROWS])
        starts = _windows(np.concatenate([*positions.values(), np.empty(0, np.int64)]) - offset, length, base)
        count = min(max(SEQUENCES, -(-wanted.size // length), len(starts) + 1), MOST_SEQUENCES)
        generator, vocabulary = np.random.default_rng(0), base.architecture.sizes["vocab"]
        drawn = generator.integers(0, vocabulary, (count, length))
        drawn.flat[: wanted.size] = wanted
        places = np.arange(length) + np.array([*starts, *[0] * (count - len(starts))])[:, None]
        found = Inputs(drawn, places if starts else None)
    visited = {
        "vocab": found.tokens,
        "position": offset + (np.arange(length) if found.positions is None else found.positions),
    }
    missed = {
        name: left
        for axis, tables in (("vocab", tokens), ("position", positions))
        for name, rows in tables.items()
        if (left := np.setdiff1d(rows, visited[axis])).size
    }
    return Inputs(found.tokens, found.positions, missed)


def _positions(base: Checkpoint) -> int:
    """How many positions there are vectors for."""
    rows = base.architecture.sizes.get("position")
    return LENGTH if rows is None else rows - base.architecture.family.first_position


def _windows(positions: Int64[np.ndarray, " rows"], length: int, base: Checkpoint) -> list[int]:
    """First positions of sequences that visit what those that count from zero do not."""
    last = _positions(base) - length
    starts: list[int] = []
    for position in np.sort(positions):
        ahead = range(length)
        if position not in ahead and not any(start <= position < start + length for start in starts):
            starts.append(int(min(position, last)))
    return starts[: MOST_SEQUENCES - 1]
