"""The laws of the issue: function, weight invariants, inverse, for random small models of every family."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from scramble.apply import apply
from scramble.invert import invert
from scramble.manifest import read_manifest
from scramble.symmetries import SYMMETRIES
from tests.models import Tiny, logits, tinies, weights

CHOICES = [("vo-rotation",), ("head-permutation",), ("vo-rotation:shared=true",)]
CHOICES += [("vo-rotation", "head-permutation"), ("head-permutation", "vo-rotation")]
symmetry_choices = st.sampled_from(CHOICES)


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


@given(tinies(), symmetry_choices, st.data())
def test_a_scramble_keeps_the_function_and_the_invariants(
    tiny: Tiny, chosen: tuple[str, ...], data: st.DataObject
) -> None:
    layers = sorted(data.draw(st.sets(st.integers(0, tiny.layers - 1), min_size=1)))
    with TemporaryDirectory() as scratch:
        base, target = tiny.save(Path(scratch) / "base"), Path(scratch) / "scrambled"
        apply(base, target, layers=",".join(map(str, layers)), symmetries=chosen, seed=tiny.seed, check=False)
        before, after = weights(base), weights(target)
        error = torch.linalg.norm(logits(target) - logits(base)) / torch.linalg.norm(logits(base))
        assert error < 1e-6
        identity = [(k, g) for k in range(tiny.kv_heads) for g in range(tiny.group)]
        for layer in range(tiny.layers):
            old = attention(before, layer, tiny, origins(target, layer, tiny))
            for one, two in zip(old, attention(after, layer, tiny, identity), strict=True):
                assert torch.linalg.norm(one - two) <= 1e-12 * torch.linalg.norm(one)
        for name, old_weight in before.items():
            same = torch.equal(old_weight, after[name])
            treated = any(f"layers.{layer}.self_attn.{p}_proj" in name for layer in layers for p in "qkvo")
            assert same or treated, name
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
        apply(base, root / "scrambled", layers="all", symmetries=chosen, check=False)
        invert(root / "scrambled", root / "back")
        if chosen == ("head-permutation",):
            assert (root / "back" / "model.safetensors").read_bytes() == (
                base / "model.safetensors"
            ).read_bytes()
        for name, old in weights(base).items():
            gap = torch.linalg.norm(weights(root / "back")[name].double() - old.double())
            assert gap <= (1e-14 if dtype is torch.float64 else 6e-3) * torch.linalg.norm(old.double()), name


@given(tinies())
def test_scrambles_stack_and_undo_in_reverse(tiny: Tiny) -> None:
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


def test_every_symmetry_is_in_these_laws() -> None:
    assert {choice.split(":")[0] for chosen in CHOICES for choice in chosen} == set(SYMMETRIES)
