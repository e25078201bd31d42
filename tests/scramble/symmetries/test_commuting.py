"""Symmetries on axes of their own commute, and a path begins at the identity and ends at its rotation."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scramble.families import architecture
from scramble.operations.apply import apply
from scramble.symmetries import symmetry
from tests.models import Tiny, weights

GROUPS = "head-permutation:kv_heads=false"
# Values, queries with keys, heads inside a group, and neurons: each on axes of its own.
TURNS = ("vo-rotation", "qk-rotation", "neuron-permutation", GROUPS)
MOVES = ("vo-rotation:method=signed-permutation", "neuron-permutation", GROUPS, "residual-permutation")
FAMILIES = ("qwen2", "phi3", "falcon", "gpt_oss", "mixtral", "qwen3")


def scrambled(base: Path, out: Path, chosen: tuple[str, ...], seed: int) -> Path:
    apply(base, out, layers="all", symmetries=chosen, seed=seed, check=False)
    return out


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=2)
@given(order=st.permutations(range(4)), seed=st.integers(0, 99))
@pytest.mark.train
def test_symmetries_of_different_axes_act_in_any_order(family: str, order: list[int], seed: int) -> None:
    tiny = Tiny(family, kv_heads=2, group=3, head_dim=8, layers=2, seed=seed)
    with TemporaryDirectory() as scratch:
        root = Path(scratch)
        base = tiny.save(root / "base")
        for name, chosen in (("turned", TURNS), ("moved", MOVES)):
            one = scrambled(base, root / f"{name}-one", chosen, seed)
            two = scrambled(base, root / f"{name}-two", tuple(chosen[at] for at in order), seed)
            other = weights(two)
            for tensor, value in weights(one).items():
                gap = torch.linalg.norm(value - other[tensor])
                assert gap <= 1e-14 * torch.linalg.norm(value), (name, tensor)
                if name == "moved":
                    assert torch.equal(value, other[tensor]), tensor


def test_heads_that_trade_places_do_not_commute_with_their_rotations(tmp_path: Path) -> None:
    base = Tiny("qwen2", kv_heads=3, group=2, head_dim=8, layers=1).save(tmp_path / "base")
    chosen = ("vo-rotation", "head-permutation")
    one, two = (scrambled(base, tmp_path / str(at), chosen[::at], 0) for at in (1, -1))
    name = "model.layers.0.self_attn.v_proj.weight"
    assert not torch.allclose(weights(one)[name], weights(two)[name], rtol=0.01)


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt_neox", "deepseek_v3"])
def test_a_path_of_strength_zero_is_the_identity(family: str, tmp_path: Path) -> None:
    base = Tiny(family, kv_heads=3, group=2, head_dim=8, layers=2).save(tmp_path / "base")
    still = scrambled(base, tmp_path / "still", ("vo-rotation:method=path,strength=0",), 3)
    half = scrambled(base, tmp_path / "half", ("vo-rotation:method=path,strength=0.5",), 3)
    old, moved = weights(base), weights(half)
    for name, value in weights(still).items():
        assert (value - old[name]).abs().max() <= 1e-14, name
    assert any(not torch.allclose(moved[name], old[name], rtol=0.01) for name in old)


@given(st.integers(0, 200), st.sampled_from([4, 6, 8]), st.booleans())
def test_a_path_of_strength_one_is_the_haar_draw_of_determinant_one(
    seed: int, head_dim: int, shared: bool
) -> None:
    config = Tiny("llama", kv_heads=3, group=1, head_dim=head_dim, layers=1).config
    model = architecture(config | {"model_type": "llama"})
    (haar,) = symmetry("vo-rotation", {"shared": shared}).draw(model, seed, 0)
    (path,) = symmetry("vo-rotation", {"method": "path", "shared": shared}).draw(model, seed, 0)
    for drawn, found in zip(haar.data, path.data, strict=True):
        assert np.linalg.det(found) == pytest.approx(1)
        np.testing.assert_allclose(found[1:], drawn[1:], atol=1e-13)
        np.testing.assert_allclose(found[0], np.linalg.det(drawn) * drawn[0], atol=1e-13)


def test_a_path_of_strength_one_turns_the_weights_as_that_draw(tmp_path: Path) -> None:
    base = Tiny("llama", kv_heads=4, group=1, head_dim=8, layers=1).save(tmp_path / "base")
    name = "model.layers.0.self_attn.v_proj.weight"
    turned = scrambled(base, tmp_path / "haar", ("vo-rotation",), 5)
    path = scrambled(base, tmp_path / "path", ("vo-rotation:method=path,strength=1",), 5)
    one, two = (weights(folder)[name].view(4, 8, -1) for folder in (turned, path))
    assert torch.allclose(one[:, 1:], two[:, 1:], rtol=0, atol=1e-13)
    flips = {bool(torch.allclose(one[head, 0], -two[head, 0], rtol=0, atol=1e-13)) for head in range(4)}
    kept = {bool(torch.allclose(one[head, 0], two[head, 0], rtol=0, atol=1e-13)) for head in range(4)}
    assert flips == kept == {True, False}
