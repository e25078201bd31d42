"""Stored dtypes: how a tensor's bytes stand for numbers, and the one rounding back.

Words are the stored form: uint16 for bf16, floats for the others. Decoding to float64 is exact. Encoding
rounds once, to nearest, ties to even; going through float32 would round twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scramble.architecture.axes import Array

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64, UInt16


@dataclass(frozen=True)
class Storage:
    """A floating dtype of the safetensors format.

    Attributes:
        name: as in a safetensors header.
        word: numpy dtype of the stored words.
        digits: significand bits, the leading one included (24 for float32).
        smallest: exponent of the smallest normal number.
        decode: words to float64, exactly.
        encode: float64 to words, rounded once.
    """

    name: str
    word: np.dtype[np.generic]
    digits: int
    smallest: int
    decode: Callable[[Array], Float64[np.ndarray, "..."]]
    encode: Callable[[Float64[np.ndarray, "..."]], Array]

    def ulp(self, values: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
        """The distance between a value and its next neighbour away from zero."""
        exponent = np.where(values == 0, self.smallest, np.maximum(np.frexp(values)[1] - 1, self.smallest))
        spacing: Float64[np.ndarray, "..."] = np.ldexp(1.0, exponent - (self.digits - 1))
        return spacing


def bf16_to_float32(words: UInt16[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """Exact: bf16 is the upper half of a float32."""
    return np.asarray(words.astype(np.uint32) << 16).view(np.float32)  # shifts of scalars are no arrays


def float32_to_bf16(values: Float32[np.ndarray, "..."]) -> UInt16[np.ndarray, "..."]:
    """Round to nearest, ties to even; NaN stays NaN."""
    return _nearest_bf16(np.ascontiguousarray(values, dtype=np.float32), values)


def _nearest_bf16(single: Float32[np.ndarray, "*n"], exact: Array) -> UInt16[np.ndarray, "*n"]:
    """`exact` rounded once, where `single` is `exact` rounded to float32.

    Rounding twice errs only where the first rounding ends on a tie of the second: there `exact` decides.
    """
    half_up = np.asarray(single.view(np.uint32) + np.uint32(0x8000))
    words = np.asarray((half_up >> 16).astype(np.uint16))  # sums of scalars are no arrays
    ties = np.flatnonzero(half_up.astype(np.uint16) == 0)
    near, true, up = np.abs(single.flat[ties]), np.abs(exact.flat[ties]), words.flat[ties]
    words.flat[ties] = np.where(true == near, up & 0xFFFE, up - (true < near))
    nan = np.isnan(single)
    if nan.any():
        words[nan] = 0x7FC0
    return words


def _bf16_to_float64(words: UInt16[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    with np.errstate(invalid="ignore"):  # signalling NaNs
        return bf16_to_float32(words).astype(np.float64)


def _float64_to_bf16(values: Float64[np.ndarray, "..."]) -> UInt16[np.ndarray, "..."]:
    with np.errstate(over="ignore", invalid="ignore"):  # signalling NaNs
        return _nearest_bf16(values.astype(np.float32, order="C"), values)


def _ieee(dtype: str) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    def encode(values: Array) -> Array:
        with np.errstate(over="ignore"):
            return values.astype(dtype)

    return lambda words: words.astype(np.float64), encode


STORAGES: dict[str, Storage] = {
    storage.name: storage
    for storage in (
        Storage("BF16", np.dtype("<u2"), 8, -126, _bf16_to_float64, _float64_to_bf16),
        Storage("F16", np.dtype("<f2"), 11, -14, *_ieee("<f2")),
        Storage("F32", np.dtype("<f4"), 24, -126, *_ieee("<f4")),
        Storage("F64", np.dtype("<f8"), 53, -1022, *_ieee("<f8")),
    )
}
