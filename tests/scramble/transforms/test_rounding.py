"""Transforms of stored tensors: blocks are a matter of memory, not of the result."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scramble.architecture.axes import parse
from scramble.checkpoints import STORAGES
from scramble.errors import CheckpointError
from scramble.symmetries import Element, Permutation, Rotation
from scramble.symmetries.draws import haar
from scramble.transforms import rounding

SIZES = {"kv_head": 3, "group": 2, "v": 5, "hidden": 7}
LAYOUTS = ["(kv_head group v) hidden", "hidden (kv_head group v)", "(kv_head v)", "(kv_head (v + v)) hidden"]


def elements(seed: int) -> list[Element]:
    rng = np.random.default_rng(seed)
    return [
        Rotation("v", ("kv_head",), np.stack([haar(5, rng) for _ in range(3)])),
        Permutation("group", ("kv_head",), np.stack([rng.permutation(2) for _ in range(3)])),
        Permutation("kv_head", (), rng.permutation(3)),
    ]


@pytest.mark.parametrize("name", STORAGES)
@given(st.integers(0, 100), st.sampled_from(LAYOUTS), st.permutations(range(3)), st.integers(1, 300))
def test_blocks_give_the_exact_transform_rounded_once(
    name: str, seed: int, text: str, order: list[int], block: int
) -> None:
    layout, storage, chosen = parse(text), STORAGES[name], [elements(seed)[place] for place in order]
    words = storage.encode(np.random.default_rng(seed).standard_normal(layout.shape(SIZES)))
    target = rounding.exact(words, storage, layout, SIZES, chosen)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounding, "BLOCK", block)
        found, error = rounding.rounded("x", words, storage, layout, SIZES, chosen)
    assert found.dtype == words.dtype
    assert rounding.off(found, storage, target) == 0
    gap = np.linalg.norm(storage.decode(found) - target) / np.linalg.norm(target)
    assert error == pytest.approx(gap, rel=1e-6, abs=1e-15)


@pytest.mark.parametrize("bad", [np.inf, np.nan, 3.3e38])
def test_a_value_that_cannot_be_held_is_refused_in_whichever_block_it_is(bad: float) -> None:
    layout, storage = parse("hidden (kv_head v)"), STORAGES["BF16"]
    values = np.ones((7, 15))
    values[5] = bad
    # Constant rows: the direction (1, .., 1) is turned onto one axis, which makes it longer by sqrt(5).
    onto = np.linalg.qr(np.column_stack([np.ones(5), np.eye(5)[:, 1:]]))[0].T
    element = Rotation("v", ("kv_head",), np.stack([onto] * 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounding, "BLOCK", 15)
        with pytest.raises(CheckpointError, match="'x': BF16 cannot hold"):
            rounding.rounded("x", storage.encode(values), storage, layout, SIZES, [element])
