"""The bf16 update mask, and the magnitude key of a weight.

"Changed" is the paper's bf16 probe (arXiv 2511.08567, 2.1 and E.2): for normal finite values its tolerance
of 1e-3 is below half an ULP, so it says exactly that the 16 bits differ. +0 and -0 count as equal.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float32, UInt16

from scramble.architecture.axes import Array
from scramble.checkpoints import STORAGES, Storage
from scramble.checkpoints.storage import bf16_to_float32


def bf16_words(words: Array, storage: Storage) -> UInt16[np.ndarray, "..."]:
    """Stored words as bf16, rounded if they are not bf16 already."""
    if storage.name == "BF16":
        return np.asarray(words)
    rounded: UInt16[np.ndarray, "..."] = STORAGES["BF16"].encode(storage.decode(words))
    return rounded


def float32_values(words: Array, storage: Storage) -> Float32[np.ndarray, "..."]:
    """Stored words as float32."""
    if storage.name == "BF16":
        return bf16_to_float32(words)
    with np.errstate(over="ignore"):
        return np.asarray(words, dtype=np.float32)


def changed(
    start: UInt16[np.ndarray, "..."], end: UInt16[np.ndarray, "..."], eta: float = 0.0
) -> Bool[np.ndarray, "..."]:
    """Where two bf16 tensors differ as words; +0 equals -0, NaNs are compared as words.

    Args:
        eta: if positive, the paper's tolerance rule: `|w+ - w0| > eta * max(|w+|, |w0|)`.
    """
    if eta > 0:
        old, new = (bf16_to_float32(one).astype(np.float64) for one in (start, end))
        with np.errstate(invalid="ignore", over="ignore"):
            return np.asarray(np.abs(new - old) > eta * np.maximum(np.abs(new), np.abs(old)))
    return np.asarray((start != end) & (((start | end) & 0x7FFF) != 0))


def non_finite(words: UInt16[np.ndarray, "..."]) -> int:
    """How many bf16 words are infinite or NaN."""
    return int(np.count_nonzero((words & 0x7F80) == 0x7F80))


def magnitude_key(
    words: UInt16[np.ndarray, "*shape"], values: Float32[np.ndarray, "*shape"] | None = None
) -> UInt16[np.ndarray, "*shape"]:
    """What fixes a weight's rounding threshold, as a number (`bits.keys`).

    Args:
        values: the weights in float32, where they are finer than their bf16 words.
    """
    from scramble.measures.pairs import bits

    found = np.empty(words.size, np.uint16)
    flat = None if values is None else np.ascontiguousarray(values).reshape(-1)
    bits.keys(np.ascontiguousarray(words).reshape(-1), flat, found)
    return found.reshape(words.shape)
