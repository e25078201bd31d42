"""The laws of the issue: function, weight invariants, inverse, for random small models of every family."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scramble.apply import apply
from scramble.checkpoints import open_checkpoint
from scramble.errors import SymmetryError, UnknownFamilyError
from scramble.families import FAMILIES as TABLES
from scramble.invert import invert
from scramble.manifest import read_manifest
from scramble.symmetries import SYMMETRIES
from tests.models import FAMILIES, Tiny, logits, tinies, weights

CHOICES = [("vo-rotation",), ("head-permutation",), ("vo-rotation:shared=true",)]
CHOICES += [("vo-rotation", "head-permutation"), ("head-permutation", "vo-rotation")]
CHOICES += [(f"vo-rotation:method={method}",) for method in ("signed-permutation", "path,strength=0.3")]
CHOICES += [
    ("qk-rotation",),
    ("neuron-permutation",),
    ("qk-rotation", "head-permutation", "neuron-permutation"),
]
EXACT = ("head-permutation", "neuron-permutation", "vo-rotation:method=signed-permutation")
symmetry_choices = st.sampled_from(CHOICES)


def refused(tiny: Tiny, chosen: tuple[str, ...]) -> bool:
    """OLMo's clamp on q, k and v commutes with no rotation, only with signs and permutations."""
    turns = any("rotation" in one and "signed" not in one for one in chosen)
    return tiny.family == "olmo" and tiny.switched and turns


def unfused(tensors: dict[str, torch.Tensor], tiny: Tiny) -> dict[str, torch.Tensor]:
    """Split q, k and v where one tensor holds them (Phi 3)."""
    sizes = [tiny.kv_heads * tiny.group * tiny.head_dim, *[tiny.kv_heads * tiny.head_dim] * 2]
    found = dict(tensors)
    for name, weight in tensors.items():
        if "qkv_proj" in name:
            for part, piece in zip("qkv", weight.split(sizes), strict=True):
                found[name.replace("qkv_proj", f"{part}_proj")] = piece
    return found


def attention(
    tensors: dict[str, torch.Tensor], layer: int, tiny: Tiny, arrangement: list[tuple[int, int]]
) -> list[torch.Tensor]:
    """For each (kv head, query head in it): `W_O W_V`, `W_O b_V`, and `W_Q^T W_K` with biases as a column."""
    prefix, d = f"model.layers.{layer}.self_attn.", tiny.head_dim

    def rows(name: str, head: int) -> torch.Tensor:
        weight = tensors[f"{prefix}{name}_proj.weight"][head * d : (head + 1) * d]
        bias = tensors.get(f"{prefix}{name}_proj.bias", torch.zeros(10_000, dtype=torch.float64))
        return torch.cat([weight, bias[head * d : (head + 1) * d, None]], dim=1)

    found = []
    for kv, member in arrangement:
        query = kv * tiny.group + member
        columns = tensors[f"{prefix}o_proj.weight"][:, query * d : (query + 1) * d]
        found += [columns @ rows("v", kv), rows("q", query).T @ rows("k", kv)]
    return found


def origins(folder: Path, layer: int, tiny: Tiny) -> list[tuple[int, int]]:
    """Which old (kv head, member) stands at each new place, read from the stored permutations."""
    manifest, elements = read_manifest(folder)
    heads, members = np.arange(tiny.kv_heads), np.tile(np.arange(tiny.group), (tiny.kv_heads, 1))
    for step in manifest.steps:
        for record in step.elements:
            if step.layer == layer and record.axis == "kv_head":
                heads = elements[record.key]
            if step.layer == layer and record.axis == "group":
                members = elements[record.key]
    return [(heads[k], members[heads[k], g]) for k in range(tiny.kv_heads) for g in range(tiny.group)]


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=12)
@given(st.data())
def test_a_scramble_keeps_the_function_and_the_invariants(family: str, data: st.DataObject) -> None:
    tiny, chosen = data.draw(tinies((family,))), data.draw(symmetry_choices)
    layers = sorted(data.draw(st.sets(st.integers(0, tiny.layers - 1), min_size=1)))
    with TemporaryDirectory() as scratch:
        base, target = tiny.save(Path(scratch) / "base"), Path(scratch) / "scrambled"
        asked = {
            "layers": ",".join(map(str, layers)),
            "symmetries": chosen,
            "seed": tiny.seed,
            "check": False,
        }
        if refused(tiny, chosen):
            with pytest.raises(SymmetryError, match="clip_qkv"):
                apply(base, target, **asked)
            return
        apply(base, target, **asked)
        before, after = (unfused(weights(folder), tiny) for folder in (base, target))
        error = torch.linalg.norm(logits(target) - logits(base)) / torch.linalg.norm(logits(base))
        assert error < 1e-6
        identity = [(k, g) for k in range(tiny.kv_heads) for g in range(tiny.group)]
        for layer in range(tiny.layers):
            old = attention(before, layer, tiny, origins(target, layer, tiny))
            for one, two in zip(old, attention(after, layer, tiny, identity), strict=True):
                assert torch.linalg.norm(one - two) <= 1e-12 * torch.linalg.norm(one)
        for name, old_weight in before.items():
            same = torch.equal(old_weight, after[name])
            inside = any(
                f"layers.{layer}.{part}" in name for layer in layers for part in ("self_attn", "mlp")
            )
            assert same or (inside and not any(part in name for part in ("layernorm", "embed"))), name
            values = [
                torch.linalg.svdvals(weight) if weight.ndim == 2 else torch.linalg.norm(weight, keepdim=True)
                for weight in (old_weight, after[name])
            ]
            assert torch.allclose(*values, rtol=0, atol=1e-12 * float(values[0].max()))
        for layer in layers:
            prefix = f"model.layers.{layer}.self_attn."
            moved = {n for n in before if n.startswith(prefix) and not torch.equal(before[n], after[n])}
            if "vo-rotation" in chosen[0]:
                values = {n for n in before if n.startswith((prefix + "v_proj", prefix + "o_proj.weight"))}
                assert values <= moved


@given(tinies(), symmetry_choices, st.sampled_from([torch.float64, torch.bfloat16]))
def test_invert_undoes_apply(tiny: Tiny, chosen: tuple[str, ...], dtype: torch.dtype) -> None:
    with TemporaryDirectory() as scratch:
        root = Path(scratch)
        base = tiny.save(root / "base", dtype)
        assume(not refused(tiny, chosen))
        apply(base, root / "scrambled", layers="all", symmetries=chosen, check=False)
        invert(root / "scrambled", root / "back")
        if set(chosen) <= set(EXACT):
            assert (root / "back" / "model.safetensors").read_bytes() == (
                base / "model.safetensors"
            ).read_bytes()
        for name, old in weights(base).items():
            gap = torch.linalg.norm(weights(root / "back")[name].double() - old.double())
            assert gap <= (1e-14 if dtype is torch.float64 else 6e-3) * torch.linalg.norm(old.double()), name


@given(tinies())
def test_scrambles_stack_and_undo_in_reverse(tiny: Tiny) -> None:
    assume(not refused(tiny, ("vo-rotation",)))
    with TemporaryDirectory() as scratch:
        root = Path(scratch)
        base = tiny.save(root / "base")
        apply(base, root / "one", layers="0", check=False)
        apply(root / "one", root / "two", layers="all", symmetries=("vo-rotation",), seed=1, check=False)
        assert torch.allclose(logits(root / "two"), logits(base), rtol=1e-5, atol=1e-5)
        invert(root / "two", root / "back")
        for name, old in weights(base).items():
            assert torch.allclose(weights(root / "back")[name], old, rtol=0, atol=1e-13)


@given(tinies())
def test_a_subset_of_layers_draws_what_the_whole_draws(tiny: Tiny) -> None:
    assume(not refused(tiny, ("vo-rotation",)))
    with TemporaryDirectory() as scratch:
        root = Path(scratch)
        base = tiny.save(root / "base", torch.bfloat16)
        apply(base, root / "all", layers="all", check=False)
        apply(base, root / "last", layers="-1", check=False)
        prefix = f"model.layers.{tiny.layers - 1}."
        whole, part = weights(root / "all"), weights(root / "last")
        for name in whole:
            if name.startswith(prefix):
                assert torch.equal(whole[name], part[name])


@pytest.mark.parametrize("switched", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_table_that_lacks_any_one_tensor_is_refused(
    family: str, switched: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Tiny(family, 2, 2, 8, layers=1, switched=switched).save(tmp_path / "base", torch.bfloat16)
    checkpoint, sound = open_checkpoint(base), TABLES[family]
    for name in set(checkpoint.tensors) & set(checkpoint.architecture.layouts()):
        short = name.removeprefix("model.layers.0.")
        lacking = replace(
            sound,
            table=lambda config, layer, short=short: _without(sound.table(config, layer), short),
            outside=lambda config, short=short: _without(sound.outside(config), short),
        )
        monkeypatch.setitem(TABLES, family, lacking)
        with pytest.raises(UnknownFamilyError, match=re.escape(name)):
            _ = open_checkpoint(base).architecture


def _without(table: Mapping[str, str], name: str) -> dict[str, str]:
    return {key: layout for key, layout in table.items() if key != name}


def test_layers_without_positions_turn_freely(tmp_path: Path) -> None:
    base = Tiny("smollm3", 2, 1, 8, layers=3, switched=True).save(tmp_path / "base", torch.bfloat16)
    manifest = apply(base, tmp_path / "out", layers="all", symmetries=("qk-rotation",))
    assert [step.group for step in manifest.steps] == ["(SO(2)^4)^2", "(O(8))^2", "(SO(2)^4)^2"]


def test_partial_positions_leave_the_other_channels_free(tmp_path: Path) -> None:
    base = Tiny("phi3", 2, 1, 8, layers=1, switched=True).save(tmp_path / "base", torch.bfloat16)
    manifest = apply(base, tmp_path / "out", layers="all", symmetries=("qk-rotation",))
    assert [step.group for step in manifest.steps] == ["(SO(2)^2 x O(4))^2"]


def test_hadamard_needs_a_power_of_two_and_strength_a_path(tmp_path: Path) -> None:
    for head_dim, asked, message in (
        (6, "vo-rotation:method=hadamard", "power of two"),
        (8, "vo-rotation:strength=0.5", "belongs to method=path"),
    ):
        base = Tiny("llama", 2, 1, head_dim, layers=1).save(tmp_path / f"base{head_dim}")
        with pytest.raises(SymmetryError, match=message):
            apply(base, tmp_path / "out", layers="0", symmetries=(asked,))
    manifest = apply(
        base, tmp_path / "out", layers="0", symmetries=("vo-rotation:method=hadamard",), check=False
    )
    _, elements = read_manifest(tmp_path / "out")
    (matrix,) = elements.values()
    np.testing.assert_allclose(np.abs(matrix), 8**-0.5)
    assert manifest.steps[0].options["method"] == "hadamard"
    assert torch.allclose(logits(tmp_path / "out"), logits(base), rtol=1e-6, atol=1e-6)


def test_every_symmetry_is_in_these_laws() -> None:
    assert {choice.split(":")[0] for chosen in CHOICES for choice in chosen} == set(SYMMETRIES)
