"""Compiled loops over a block of one tensor: bf16 bit patterns and float32, updates, magnitude keys."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, UInt16
from numba import njit

# Keys of stored bf16 words: exponent, mantissa is zero. Starts finer than bf16 have a cell beside it.
KEYS, CELLS = 512, 32
_compiled = njit(nogil=True, cache=True, error_model="numpy")


@_compiled
def widen(words: UInt16[np.ndarray, " n"], values: Float32[np.ndarray, " n"]) -> None:
    """bf16 words as float32."""
    bits = values.view(np.uint32)
    for i in range(len(words)):
        bits[i] = np.uint32(words[i]) << np.uint32(16)


@_compiled
def narrow(values: Float32[np.ndarray, " n"], words: UInt16[np.ndarray, " n"]) -> bool:
    """float32 rounded to bf16 words, to nearest, ties to even; whether any value was between two words."""
    bits, low = values.view(np.uint32), np.uint32(0)
    for i in range(len(words)):
        b = bits[i]
        low |= b & np.uint32(0xFFFF)
        up = (b + np.uint32(0x7FFF) + ((b >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        nan = (b & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        words[i] = np.uint16(0x7FC0) if nan else np.uint16(up)
    return low != 0


@_compiled
def subtract(
    ends: Float32[np.ndarray, " n"], starts: Float32[np.ndarray, " n"], delta: Float32[np.ndarray, " n"]
) -> None:
    """Updates; zero where either end is not finite."""
    for i in range(len(ends)):
        d = ends[i] - starts[i]
        delta[i] = d if d - d == 0 else np.float32(0)


@_compiled
def keys(
    words: UInt16[np.ndarray, " n"],
    values: Float32[np.ndarray, " n"] | None,
    found: UInt16[np.ndarray, " n"],
) -> None:
    """The magnitude key of start weights: what fixes their rounding threshold.

    (exponent, mantissa is zero) of bf16 words, since the threshold is half an ULP, and a quarter towards
    zero just at a power of two. For weights between two words also the distance to the nearer rounding
    boundary, in octaves of an ULP, and its side.
    """
    for i in range(len(words)):
        w = words[i]
        found[i] = ((w >> np.uint16(6)) & np.uint16(0x1FE)) | np.uint16((w & np.uint16(0x7F)) == 0)
    if values is not None:
        bits = values.view(np.uint32)
        for i in range(len(words)):
            # The low half of the bits is the place between two words; 0x8000 is the boundary.
            low = np.int32(bits[i] & np.uint32(0xFFFF))
            distance, cell = abs(low - 0x8000), 15
            while distance > 1:
                distance >>= 1
                cell -= 1
            inner = np.int32(low >= 0x8000)
            found[i] = found[i] * np.uint16(CELLS) + np.uint16(2 * cell + inner)
