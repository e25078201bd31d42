"""Encoding rounds once: the result is the nearest stored value, ties to even."""

from bisect import bisect_left
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scramble.checkpoints import STORAGES
from scramble.checkpoints.storage import float32_to_bf16

# Every finite magnitude of bf16 by its definition, and what follows the largest: halfway there begins inf.
MAGNITUDES = [
    ((word & 0x7F) + 0x80 * (word > 0x7F)) * Fraction(2) ** (max(word >> 7, 1) - 134)
    for word in range(0x7F81)
]


def nearest_bf16(value: float) -> int:
    """The word nearest to a value that is not NaN, of two the even one, in exact arithmetic."""
    sign = 0x8000 if np.signbit(value) else 0
    if np.isinf(value) or (magnitude := abs(Fraction(value))) >= MAGNITUDES[-1]:
        return sign | 0x7F80
    above = max(1, bisect_left(MAGNITUDES, magnitude))
    down, up = magnitude - MAGNITUDES[above - 1], MAGNITUDES[above] - magnitude
    return sign | (above - 1 if down < up or (down == up and above % 2) else above)


@st.composite
def beside_ties(draw: st.DrawFn) -> float:
    """A value halfway between two words, subnormal or about to overflow too, or a little beside it."""
    word = draw(st.one_of(st.integers(0, 0x7F7F), st.integers(0, 0x100), st.integers(0x7F00, 0x7F7F)))
    tie = float((MAGNITUDES[word] + MAGNITUDES[word + 1]) / 2)
    beside = tie * (1 + draw(st.sampled_from([-1, 0, 1])) * 2.0 ** -draw(st.integers(8, 52)))
    return draw(st.sampled_from([-1, 1])) * beside


@given(st.lists(st.one_of(st.floats(), beside_ties()), min_size=1, max_size=20))
def test_bf16_is_the_nearest_word_for_every_float64(numbers: list[float]) -> None:
    values = np.array(numbers)
    words = STORAGES["BF16"].encode(values)
    nan = np.isnan(values)
    assert words[~nan].tolist() == [nearest_bf16(value) for value in values[~nan].tolist()]
    assert np.isnan(STORAGES["BF16"].decode(words[nan])).all()


@pytest.mark.parametrize("name", ["BF16", "F16"])
def test_every_stored_word_decodes_and_encodes_to_itself(name: str) -> None:
    storage = STORAGES[name]
    words = np.arange(1 << 16, dtype=np.uint16).view(storage.word)
    values = storage.decode(words)
    finite = np.isfinite(values)
    assert (storage.encode(values[finite]).view(np.uint16) == words[finite].view(np.uint16)).all()


@pytest.mark.parametrize("name", ["BF16", "F16", "F32"])
@given(st.lists(st.floats(-3e4, 3e4), min_size=1, max_size=20))
def test_encoding_is_nearest_with_ties_to_even(name: str, numbers: list[float]) -> None:
    storage, values = STORAGES[name], np.array(numbers)
    words = storage.encode(values)
    bits = words.view(f"u{words.itemsize}")
    stored = storage.decode(words)
    for step in (-1, 1):
        beside = storage.decode((bits.astype(np.int64) + step).astype(bits.dtype).view(words.dtype))
        closer, mine = np.abs(beside - values), np.abs(stored - values)
        usable = np.isfinite(beside) & (np.sign(beside) * np.sign(stored) >= 0)
        assert (mine <= closer)[usable].all()
        ties = usable & (mine == closer) & (beside != stored)
        assert (bits[ties] % 2 == 0).all()


def test_bf16_from_float64_does_not_round_twice() -> None:
    # Just above a tie of bf16, by less than float32 can hold: rounding through float32 lands on the tie.
    value = np.array([1 + 2.0**-8 + 2.0**-40])
    assert STORAGES["BF16"].decode(STORAGES["BF16"].encode(value))[0] == 1 + 2.0**-7
    assert torch.tensor(value).to(torch.float32).to(torch.bfloat16).item() == 1.0


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
def test_bf16_from_float32_is_torchs(bits: list[int]) -> None:
    values = np.array(bits, dtype=np.uint32).view(np.float32)
    ours = float32_to_bf16(values)
    theirs = torch.from_numpy(values).to(torch.bfloat16).view(torch.uint16).numpy()
    numbers = ~np.isnan(values)
    assert (ours[numbers] == theirs[numbers]).all()
    assert np.isnan(STORAGES["BF16"].decode(ours[~numbers])).all()


@pytest.mark.parametrize("name", ["BF16", "F16", "F32"])
def test_ulp_is_the_distance_to_the_next_stored_value(name: str) -> None:
    storage = STORAGES[name]
    values = np.array([1.0, 1.5, -2.0, 0.75, 3e-3, -1e-3, 0.0])
    words = storage.encode(values)
    values = storage.decode(words)
    bits = words.view(f"u{words.itemsize}")
    following = storage.decode((bits + np.array(1, bits.dtype)).view(words.dtype))
    np.testing.assert_array_equal(storage.ulp(values), np.abs(following - values))
