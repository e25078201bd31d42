"""One tensor of K runs, read once: joint counts of magnitude keys and patterns of change, sums of updates.

Memory is a few blocks and the tables, whatever the tensor's size. Counts are exact; sums are taken block by
block in float64 and added in the order of the blocks, so that they do not depend on the number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from einops import rearrange, reduce
from jaxtyping import Bool, Float32, Float64, Int64, UInt16

from scramble.errors import SelectionError
from scramble.measures.pairs.bits import CELLS, KEYS
from scramble.measures.pairs.streams import Stream
from scramble.measures.updates import kernels
from scramble.measures.updates.kernels import BINS, LANES

MOST_RUNS = 8
_BLOCK = 1 << 18


@dataclass(frozen=True)
class Joint:
    """Counts and sums of one tensor.

    Attributes:
        n: weights.
        counts: of (distinct start, magnitude key, pattern); bit k of a pattern: run k changed the weight.
        which: the distinct start of each run.
        non_finite: stored words of each end that are infinite or NaN.
        squares: squared norm of each distinct start.
        dots: inner products of the updates.
        signed, same_sign: weights with two non-zero updates, and those whose signs agree.
        fine: whether a run's update is known more finely than bf16 rounding lets through, or is zero.
        rank_dots: inner products of the centred ranks of |update|, in [-1/2, 1/2]. |update| keeps 8
            significand bits, ties share their mean rank. Zero for runs that are not fine.
        matched: expected intersections, if each run kept its own change rate for each magnitude key.
        passing, passing_sums: expected intersections and changes, if every weight drew an update of the
            run's own sizes and bf16 storage let through what exceeds its threshold. Zero likewise.
    """

    n: int
    counts: Int64[np.ndarray, "starts keys patterns"]
    which: tuple[int, ...]
    non_finite: Int64[np.ndarray, " runs"]
    squares: Float64[np.ndarray, " starts"]
    dots: Float64[np.ndarray, "runs runs"]
    signed: Int64[np.ndarray, "runs runs"]
    same_sign: Int64[np.ndarray, "runs runs"]
    fine: tuple[bool, ...]
    rank_dots: Float64[np.ndarray, "runs runs"]
    matched: Float64[np.ndarray, "runs runs"]
    passing: Float64[np.ndarray, "runs runs"]
    passing_sums: Float64[np.ndarray, " runs"]

    @property
    def both(self) -> Int64[np.ndarray, "runs runs"]:
        """Weights that two runs changed; on the diagonal, that one did."""
        bits = _bits(len(self.which))
        found: Int64[np.ndarray, "runs runs"] = (bits * self.counts[0].sum(axis=0)) @ bits.T
        return found

    @property
    def start_non_finite(self) -> Int64[np.ndarray, " starts"]:
        """Stored words of each distinct start that are infinite or NaN."""
        keys = self.counts.sum(axis=2)
        split = rearrange(keys, "start (key rest) -> start key rest", key=KEYS)[:, KEYS - 2 :]
        found: Int64[np.ndarray, " starts"] = reduce(split, "start key rest -> start", "sum")
        return found


def threads() -> int:
    """One a core that this process may use."""
    return len(os.sched_getaffinity(0))


def count(
    streams: Sequence[Stream],
    pool: ThreadPoolExecutor | None = None,
    *,
    eta: float = 0.0,
    one_start: bool = False,
) -> Joint:
    """Count one tensor.

    Args:
        pool: its threads share the blocks.
        eta: if positive, a weight is changed if `|w+ - w0| > eta * max(|w+|, |w0|)`, both bf16
            (arXiv 2511.08567, 2.1), in place of its bits differing. The same for normal values at 1e-3.
        one_start: all streams are known to have the first one's start.

    Raises:
        SelectionError: more than eight runs.
    """
    if len(streams) > MOST_RUNS:
        raise SelectionError(f"{len(streams)} runs: at most {MOST_RUNS} are compared at once")
    reader = _Reader(streams, one_start)
    tally = _first(reader, eta, pool)
    runs, rates = len(streams), None
    counts = tally.joint
    if reader.starts > 1:
        keys = counts.sum(axis=2)
        changed = np.stack([counts[s] @ bits for s, bits in zip(reader.which, _bits(runs), strict=True)])
        rates = changed / np.maximum(keys[reader.which], 1)
    second = _second(reader, tally, rates, pool)
    matched = _symmetric(second.matched) if rates is not None else _matched(counts[0], runs)
    signed, same = _signs(tally.signs.sum(axis=0), runs)
    dots = _symmetric(tally.dots)
    return Joint(
        n=reader.n,
        counts=counts,
        which=tuple(reader.which.tolist()),
        non_finite=tally.non_finite,
        squares=tally.squares.sum(axis=0),
        dots=dots,
        signed=signed,
        same_sign=same,
        fine=tuple(bool(fine or dot == 0) for fine, dot in zip(tally.fine, np.diag(dots), strict=True)),
        rank_dots=_symmetric(second.rank_dots),
        matched=matched,
        passing=_symmetric(second.passing),
        passing_sums=second.passing_sums.sum(axis=0),
    )


class _Reader:
    """Blocks of all runs; a start that runs have in common is read once."""

    def __init__(self, streams: Sequence[Stream], one_start: bool) -> None:
        self.streams, self.n = streams, streams[0].n
        first: dict[object, int] = {}
        for k, stream in enumerate(streams):
            first.setdefault(0 if one_start else stream.origin, k)
        self.sources = [streams[k] for k in first.values()]
        order = list(first)
        self.which = np.array([order.index(0 if one_start else stream.origin) for stream in streams])
        self.starts = len(order)
        self.fine_start = any(source.fine_start for source in self.sources)
        self.fine_end = any(stream.fine_end for stream in streams)
        self.cells = CELLS if self.fine_start else 1
        self.blocks = max(1, -(-self.n // _BLOCK))

    def blocks_of(self, blocks: range) -> Iterator[_Block]:
        """One after another, in the same memory."""
        runs, size = len(self.streams), min(_BLOCK, self.n)
        words, ends = np.empty((self.starts, size), np.uint16), np.empty((runs, size), np.uint16)
        fine = self.fine_start or self.fine_end
        values = np.empty((self.starts, size), np.float32) if fine else None
        delta = np.empty((runs, size), np.float32) if fine else None
        for number in blocks:
            low = number * _BLOCK
            m = min(_BLOCK, self.n - low)

            def part(rows: Any, row: int, m: int = m) -> Any:
                return None if rows is None else rows[row, :m]

            for s, source in enumerate(self.sources):
                source.start(low, words[s, :m], part(values, s))
            off_grid = [
                stream.end(low, part(values, self.which[k]), ends[k, :m], part(delta, k))
                for k, stream in enumerate(self.streams)
            ]
            finer = values if self.fine_start else None
            yield _Block(number, m, words, finer, ends, delta, np.array(off_grid, np.int64))


@dataclass(frozen=True)
class _Block:
    """The first m of each row count. `values` and `delta` are None where the words say it all."""

    number: int
    m: int
    words: UInt16[np.ndarray, "starts n"]
    values: Float32[np.ndarray, "starts n"] | None
    ends: UInt16[np.ndarray, "runs n"]
    delta: Float32[np.ndarray, "runs n"] | None
    fine: Int64[np.ndarray, " runs"]


@dataclass
class _First:
    """Tallies of the first pass: counts of one thread, or their sum; sums block by block."""

    joint: Int64[np.ndarray, "starts keys patterns"]
    non_finite: Int64[np.ndarray, " runs"]
    signs: Int64[np.ndarray, "lanes codes"]
    sizes: Int64[np.ndarray, "runs bins"]
    exact: Int64[np.ndarray, "runs bins"]
    fine: Int64[np.ndarray, " runs"]
    dots: Float64[np.ndarray, "blocks runs runs"]
    squares: Float64[np.ndarray, "blocks starts"]


@dataclass
class _Second:
    matched: Float64[np.ndarray, "blocks runs runs"]
    rank_dots: Float64[np.ndarray, "blocks runs runs"]
    passing: Float64[np.ndarray, "blocks runs runs"]
    passing_sums: Float64[np.ndarray, "blocks runs"]


def _first(reader: _Reader, eta: float, pool: ThreadPoolExecutor | None) -> _First:
    runs, starts = len(reader.streams), reader.starts
    dots, squares = np.zeros((reader.blocks, runs, runs)), np.zeros((reader.blocks, starts))

    bins = BINS if reader.fine_start or reader.fine_end else 1

    def work(blocks: range) -> _First:
        tally = _First(
            np.zeros((starts, KEYS * reader.cells, 1 << runs), np.int64),
            np.zeros(runs, np.int64),
            np.zeros((LANES, 1 << 2 * runs), np.int64),
            np.zeros((runs, bins), np.int64),
            np.zeros((runs, bins), np.int64),
            np.zeros(runs, np.int64),
            dots,
            squares,
        )
        for block in reader.blocks_of(blocks):
            tally.fine |= block.fine
            kernels.first_pass(
                *(block.m, block.words, block.values, block.ends, block.delta, reader.which, eta),
                *(tally.joint, tally.non_finite, tally.signs, tally.sizes, tally.exact),
                *(dots[block.number], squares[block.number]),
            )
        return tally

    first, *rest = _shared(work, reader.blocks, pool)
    for other in rest:
        for name in ("joint", "non_finite", "signs", "sizes", "exact"):
            getattr(first, name).__iadd__(getattr(other, name))
        first.fine |= other.fine
    return first


def _second(
    reader: _Reader,
    tally: _First,
    rates: Float64[np.ndarray, "runs keys"] | None,
    pool: ThreadPoolExecutor | None,
) -> _Second:
    """Another reading, where tables of the whole tensor are needed: fine updates, or different starts."""
    runs = len(reader.streams)
    shape = (reader.blocks, runs, runs)
    found = _Second(np.zeros(shape), np.zeros(shape), np.zeros(shape), np.zeros((reader.blocks, runs)))
    if rates is None and not tally.fine.any():
        return found
    upto = np.cumsum(tally.sizes, axis=1)
    n = max(reader.n, 1)
    ranks = (upto - tally.sizes / 2) / n - 0.5
    above, inside = (upto[:, -1:] - upto) / n, (tally.sizes - tally.exact) / n

    def work(blocks: range) -> None:
        for block in reader.blocks_of(blocks):
            kernels.second_pass(
                *(block.m, block.words, block.values, block.delta, reader.which, tally.fine, rates),
                *(ranks, above, inside, *(sums[block.number] for sums in vars(found).values())),
            )

    _shared(work, reader.blocks, pool)
    return found


def _shared(work: Callable[[range], Any], blocks: int, pool: ThreadPoolExecutor | None) -> list[Any]:
    """Every so-many-th block for each thread."""
    workers = min(blocks, threads()) if pool else 1
    if workers == 1 or pool is None:
        return [work(range(blocks))]
    return list(pool.map(work, [range(first, blocks, workers) for first in range(workers)]))


def _bits(runs: int) -> Int64[np.ndarray, "runs patterns"]:
    """Whether a pattern has run k in it."""
    return np.arange(1 << runs)[None] >> np.arange(runs)[:, None] & 1


def _matched(counts: Int64[np.ndarray, "keys patterns"], runs: int) -> Float64[np.ndarray, "runs runs"]:
    keys, changed = counts.sum(axis=1), counts @ _bits(runs).T
    found: Float64[np.ndarray, "runs runs"] = (changed.T / np.maximum(keys, 1)) @ changed
    return found


def _signs(
    codes: Int64[np.ndarray, " codes"], runs: int
) -> tuple[Int64[np.ndarray, "runs runs"], Int64[np.ndarray, "runs runs"]]:
    """(two non-zero updates, of one sign) for each pair, from counts of all runs' signs."""
    used = np.flatnonzero(codes)
    there: Bool[np.ndarray, "runs codes"] = (used[None] >> np.arange(runs)[:, None] & 1).astype(bool)
    below = (used[None] >> np.arange(runs, 2 * runs)[:, None] & 1).astype(bool)
    up, down = (there & ~below).astype(np.int64), (there & below).astype(np.int64)
    either = up + down
    return (either * codes[used]) @ either.T, (up * codes[used]) @ up.T + (down * codes[used]) @ down.T


def _symmetric(blocks: Float64[np.ndarray, "blocks runs runs"]) -> Float64[np.ndarray, "runs runs"]:
    upper = blocks.sum(axis=0)
    found: Float64[np.ndarray, "runs runs"] = np.triu(upper) + np.triu(upper, 1).T
    return found
