"""Compiled loops over blocks of weights. Each takes one block of every run, and adds to its outputs.

Blocks are (runs, n) arrays; `which[k]` is the row of `starts` that run k started from. Compiled once and
kept on disk (numba's cache); they hold no lock, so that threads share the cores.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64, UInt16
from numba import njit

from scramble.measures.pairs.bits import keys, widen

# Bins of |update|: the exponent and seven bits of the significand, as bf16 has them.
BINS = 1 << 15
# The same bin again and again would wait for the store before: neighbours count in different copies.
LANES = 4
_BLOCK = 1024
_compiled = njit(nogil=True, cache=True, error_model="numpy")
_summing = njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract"})

Starts = UInt16[np.ndarray, "starts n"]
Ends = UInt16[np.ndarray, "runs n"]
StartValues = Float32[np.ndarray, "starts n"]
Updates = Float32[np.ndarray, "runs n"]


@_compiled
def changes(
    starts: Starts,
    ends: Ends,
    which: Int64[np.ndarray, " runs"],
    low: int,
    high: int,
    eta: float,
    patterns: UInt16[np.ndarray, " block"],
    non_finite: Int64[np.ndarray, " runs"],
) -> None:
    """Bit k of a pattern: run k changed the stored word, in `low:high`. +0 equals -0, NaNs are words.

    Args:
        eta: if positive, the tolerance rule instead: `|w+ - w0| > eta * max(|w+|, |w0|)`.
    """
    # Chosen, not shifted: a shift by a variable widens every number to 64 bits, four to a register for 32.
    n, none = high - low, np.uint16(0)
    for i in range(n):
        patterns[i] = 0
    for k in range(len(ends)):
        s, e = starts[which[k]][low:high], ends[k][low:high]
        bit, bad = np.uint16(1 << k), np.int32(0)
        if eta > 0:
            x, y = np.empty(n, np.float32), np.empty(n, np.float32)
            widen(s, x)
            widen(e, y)
            for i in range(n):
                a, b = np.float64(x[i]), np.float64(y[i])
                patterns[i] |= bit if abs(b - a) > eta * max(abs(a), abs(b)) else none
        else:
            for i in range(n):
                differ = (s[i] != e[i]) & (((s[i] | e[i]) & np.uint16(0x7FFF)) != 0)
                patterns[i] |= bit if differ else none
        for i in range(n):
            bad += np.int32((e[i] & np.uint16(0x7F80)) == np.uint16(0x7F80))
        non_finite[k] += bad


@_compiled
def first_pass(
    n: int,
    starts: Starts,
    values: StartValues | None,
    ends: Ends,
    delta: Updates | None,
    which: Int64[np.ndarray, " runs"],
    eta: float,
    joint: Int64[np.ndarray, "starts keys patterns"],
    non_finite: Int64[np.ndarray, " runs"],
    signs: Int64[np.ndarray, "lanes codes"],
    sizes: Int64[np.ndarray, "runs bins"],
    exact: Int64[np.ndarray, "runs bins"],
    dots: Float64[np.ndarray, "runs runs"],
    squares: Float64[np.ndarray, " starts"],
) -> None:
    """All that one reading gives.

    Args:
        n: weights of the block; rows may be longer.
        values: start weights in float32; None if `starts` are what is stored.
        delta: updates in float32; None if the difference of the stored words is all there is.
        joint: counts of (start, magnitude key, pattern).
        non_finite: words of each end that are infinite or NaN.
        signs: counts of (update below zero, update not zero) of all runs, as one number of 2 runs bits.
        sizes, exact: counts of |update| by bin, and of those on the lower edge of it (with `delta`).
        dots: inner products of updates, upper triangle.
        squares: squared norms of the starts.
    """
    runs = len(ends)
    patterns, found = np.empty(_BLOCK, np.uint16), np.empty(_BLOCK, np.uint16)
    codes, steps = np.empty(_BLOCK, np.uint32), np.empty((runs, _BLOCK), np.float64)
    none = np.uint32(0)
    place, packed = np.empty(_BLOCK, np.int64), np.empty(_BLOCK, np.uint16)
    base, after, step = (
        np.empty(_BLOCK, np.float32),
        np.empty(_BLOCK, np.float32),
        np.empty(_BLOCK, np.float32),
    )
    origin = np.empty((len(starts), _BLOCK), np.float32)
    for low in range(0, n, _BLOCK):
        high = min(low + _BLOCK, n)
        m = high - low
        changes(starts, ends, which, low, high, eta, patterns, non_finite)
        for s in range(len(starts)):
            if values is None:
                keys(starts[s][low:high], None, found[:m])
                widen(starts[s][low:high], origin[s][:m])
            else:
                keys(starts[s][low:high], values[s][low:high], found[:m])
                _copy(values[s][low:high], origin[s])
            counts = joint[s]
            for i in range(m):
                counts[found[i], patterns[i]] += 1
            squares[s] += _square(origin[s][:m])
        # Where few weights changed and words say it all, the rest has no update: only they are looked at.
        kept = 0
        for i in range(m):
            place[kept] = i
            kept += patterns[i] != 0
        few = delta is None and eta <= 0 and 2 * kept < m
        if few:
            signs[0, 0] += m - kept
        else:
            kept = m
        for i in range(kept):
            codes[i] = 0
        for k in range(runs):
            row, up, down = steps[k], np.uint32(1 << k), np.uint32((1 << k) + (1 << (runs + k)))
            if delta is None:
                before, end = origin[which[k]], ends[k][low:high]
                if few:
                    for i in range(kept):
                        packed[i] = end[place[i]]
                        base[i] = before[place[i]]
                    widen(packed[:kept], after[:kept])
                else:
                    _copy(before[:m], base)
                    widen(end, after[:m])
                for i in range(kept):
                    d = after[i] - base[i]
                    step[i] = d if d - d == 0 else np.float32(0)
            else:
                _copy(delta[k][low:high], step)
                _sizes(step[:m], sizes[k], exact[k])
            for i in range(kept):
                row[i] = step[i]
                code = down if step[i] < 0 else up
                codes[i] |= code if step[i] != 0 else none
        for i in range(kept):
            signs[i % LANES, codes[i]] += 1
        add_dots(steps, kept, dots)


@_compiled
def second_pass(
    n: int,
    starts: Starts,
    values: StartValues | None,
    delta: Updates | None,
    which: Int64[np.ndarray, " runs"],
    fine: Int64[np.ndarray, " runs"],
    rates: Float64[np.ndarray, "runs keys"] | None,
    ranks: Float64[np.ndarray, "runs bins"],
    above: Float64[np.ndarray, "runs bins"],
    inside: Float64[np.ndarray, "runs bins"],
    matched: Float64[np.ndarray, "runs runs"],
    rank_dots: Float64[np.ndarray, "runs runs"],
    passing: Float64[np.ndarray, "runs runs"],
    passing_sums: Float64[np.ndarray, " runs"],
) -> None:
    """What needs tables of the whole tensor.

    Args:
        n: as in `first_pass`, like the others.
        fine: runs whose updates are known more finely than bf16 lets through.
        rates: change rate by key of each run's own start; None where all share a start.
        ranks: the centred rank of each bin of |update|.
        above, inside: share of a run's |updates| beyond a bin, and in it but off its lower edge.
        matched, rank_dots, passing: sums over weights of products of two runs' rates, ranks, and chances
            that an update of the run's own sizes passes the rounding threshold here; upper triangles.
    """
    runs = len(which)
    found, table = np.empty(_BLOCK, np.uint16), np.empty((runs, _BLOCK), np.float64)
    origin = np.empty(_BLOCK, np.float32)
    for low in range(0, n, _BLOCK):
        high = min(low + _BLOCK, n)
        m = high - low
        if rates is not None:
            for k in range(runs):
                s = which[k]
                if values is None:
                    keys(starts[s][low:high], None, found[:m])
                else:
                    keys(starts[s][low:high], values[s][low:high], found[:m])
                for i in range(m):
                    table[k, i] = rates[k, found[i]]
            add_dots(table, m, matched)
        if delta is not None:
            for k in range(runs):
                step, row = delta[k][low:high], table[k]
                if fine[k]:
                    bits = step.view(np.uint32)
                    for i in range(m):
                        row[i] = ranks[k, (bits[i] & np.uint32(0x7FFFFFFF)) >> np.uint32(16)]
                else:
                    row[:] = 0
            add_dots(table, m, rank_dots)
            for k in range(runs):
                s, row = which[k], table[k]
                if fine[k]:
                    if values is None:
                        widen(starts[s][low:high], origin[:m])
                    else:
                        _copy(values[s][low:high], origin)
                    _passing(starts[s][low:high], origin[:m], delta[k][low:high], above[k], inside[k], row)
                    total = 0.0
                    for i in range(m):
                        total += row[i]
                    passing_sums[k] += total
                else:
                    row[:] = 0
            add_dots(table, m, passing)


@_compiled
def _passing(
    words: UInt16[np.ndarray, " n"],
    origin: Float32[np.ndarray, " n"],
    delta: Float32[np.ndarray, " n"],
    above: Float64[np.ndarray, " bins"],
    inside: Float64[np.ndarray, " bins"],
    found: Float64[np.ndarray, " n"],
) -> None:
    """Share of |updates| that exceed the distance to the rounding boundary in each update's direction.

    The boundary between two bf16 neighbours, as float32 bits, is the lower one's with 0x8000 below it.
    Inside a bin of |update| sizes are taken as spread evenly; thresholds of stored bf16 weights are powers
    of two, edges of bins, and exact.
    """
    n = len(words)
    edges = np.empty(n, np.uint32)
    boundaries, threshold = edges.view(np.float32), np.empty(n, np.float32)
    bits = threshold.view(np.uint32)
    for i in range(n):
        word = np.uint32(words[i] & np.uint16(0x7FFF)) << np.uint32(16)
        inward = (word != 0) & (delta[i] != 0) & ((delta[i] > 0) != (origin[i] > 0))
        edges[i] = word - np.uint32(0x8000) if inward else word + np.uint32(0x8000)
    for i in range(n):
        threshold[i] = abs(boundaries[i] - abs(origin[i]))
    for i in range(n):
        bin_, low = (bits[i] & np.uint32(0x7FFFFFFF)) >> np.uint32(16), bits[i] & np.uint32(0xFFFF)
        found[i] = above[bin_] + inside[bin_] * (1.0 - low / 65536.0)


@_compiled
def _copy(row: Float32[np.ndarray, " n"], out: Float[np.ndarray, " block"]) -> None:
    """Into the front of `out`, whatever its dtype; a plain loop, since compiled slices are slower."""
    for i in range(len(row)):
        out[i] = row[i]


@_compiled
def _sizes(
    delta: Float32[np.ndarray, " n"], sizes: Int64[np.ndarray, " bins"], exact: Int64[np.ndarray, " bins"]
) -> None:
    bits = delta.view(np.uint32)
    for i in range(len(delta)):
        size = bits[i] & np.uint32(0x7FFFFFFF)
        sizes[size >> np.uint32(16)] += 1
        if (size & np.uint32(0xFFFF)) == 0:
            exact[size >> np.uint32(16)] += 1


@_summing
def add_dots(rows: Float64[np.ndarray, "runs block"], m: int, dots: Float64[np.ndarray, "runs runs"]) -> None:
    """Add inner products of the first m of each row, summed in float64, to the upper triangle."""
    for a in range(len(rows)):
        for b in range(a, len(rows)):
            x, y, total = rows[a], rows[b], 0.0
            for i in range(m):
                total += np.float64(x[i]) * np.float64(y[i])
            dots[a, b] += total


@_summing
def _square(row: Float32[np.ndarray, " n"]) -> float:
    total = 0.0
    for i in range(len(row)):
        total += np.float64(row[i]) * np.float64(row[i])
    return total
