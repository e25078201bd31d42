"""The laws of the issue: function, weight invariants, inverse, for random small models of every family."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scramble.checkpoints import open_checkpoint
from scramble.errors import SymmetryError, UnknownFamilyError
from scramble.families import FAMILIES as TABLES
from scramble.operations.apply import apply
from scramble.operations.invert import invert
from scramble.symmetries import SYMMETRIES
from scramble.transforms.record import read_record
from tests.models import FAMILIES, Tiny, logits, tinies, weights

CHOICES = [("vo-rotation",), ("head-permutation",), ("vo-rotation:shared=true",)]
CHOICES += [("vo-rotation", "head-permutation"), ("head-permutation", "vo-rotation")]
CHOICES += [(f"vo-rotation:method={method}",) for method in ("signed-permutation", "path,strength=0.3")]
CHOICES += [("qk-rotation",), ("neuron-permutation",), ("expert-permutation",), ("residual-permutation",)]
CHOICES += [("qk-rotation", "head-permutation", "neuron-permutation", "residual-permutation")]
CHOICES += [("neuron-permutation", "expert-permutation"), ("expert-permutation", "neuron-permutation")]
EXACT = (
    *("head-permutation", "neuron-permutation", "expert-permutation", "residual-permutation"),
    "vo-rotation:method=signed-permutation",
)
symmetry_choices = st.sampled_from(CHOICES)


def refusal(tiny: Tiny, chosen: tuple[str, ...], layers: Sequence[int]) -> str | None:
    """What a refusal of these symmetries must say, by what is known of the architecture."""
    for one in chosen:
        name = one.split(":")[0]
        turns = one.startswith(("vo-rotation", "qk-rotation")) and "signed" not in one
        if turns and tiny.family == "olmo" and tiny.switched:
            return "clip_qkv"  # a clamp on q, k and v commutes with signs and permutations only
        if name == "qk-rotation" and tiny.family in ("cohere", "phi", "stablelm") and tiny.switched:
            return "LayerNorm"
        if name == "head-permutation" and tiny.family == "falcon" and tiny.switched:
            return "ALiBi"
        if name == "expert-permutation" and not tiny.sparse.issuperset(layers):
            return "no axis expert"
    return None


def split(weight: torch.Tensor, *sizes: int) -> list[torch.Tensor]:
    return list(weight.split(list(sizes)))


def projections(tensors: dict[str, torch.Tensor], layer: int, tiny: Tiny) -> dict[str, torch.Tensor]:
    """q, k and v of a layer, each head's rows together, with the bias as a last column, and o.

    Written from transformers' modules, not from the tables that are tested.
    """
    (heads, group), d = tiny.heads, tiny.head_dim
    (prefix,) = {
        match[0]
        for name in tensors
        if (match := re.match(rf".*\.{layer}\.(self_attn|attn|attention|self_attention)\.", name))
    }
    own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    def rows(name: str) -> torch.Tensor:
        weight = own[f"{name}.weight"]
        weight = weight.T if tiny.family == "gpt2" else weight
        return torch.cat([weight, own.get(f"{name}.bias", torch.zeros(len(weight)))[:, None]], dim=1)

    if tiny.family == "gpt2":
        q, k, v = split(rows("c_attn"), *[heads * d] * 3)
        return {"q": q, "k": k, "v": v, "o": own["c_proj.weight"].T}
    if tiny.family == "phi3":
        q, k, v = split(rows("qkv_proj"), heads * group * d, heads * d, heads * d)
        return {"q": q, "k": k, "v": v, "o": own["o_proj.weight"]}
    if tiny.family in ("gpt_neox", "falcon"):
        parts = rows("query_key_value").view(heads, group + 2, d, -1)
        q, k, v = (part.reshape(-1, parts.shape[-1]) for part in parts.split([group, 1, 1], dim=1))
        return {"q": q, "k": k, "v": v, "o": own["dense.weight"]}
    if tiny.family == "deepseek_v3":  # the part without positions; keys and values come from the latent
        drawn = own["q_proj.weight" if "q_proj.weight" in own else "q_b_proj.weight"].view(heads, 12, -1)
        k, v = own["kv_b_proj.weight"].view(heads, 14, -1).split([8, 6], dim=1)
        q = drawn[:, :8].flatten(0, 1)
        return {"q": q, "k": k.flatten(0, 1), "v": v.flatten(0, 1), "o": own["o_proj.weight"]}
    output = {"phi": "dense", "opt": "out_proj"}.get(tiny.family, "o_proj")
    return {name: rows(f"{name}_proj") for name in "qkv"} | {"o": own[f"{output}.weight"]}


def attention(
    tensors: dict[str, torch.Tensor],
    layer: int,
    tiny: Tiny,
    arrangement: list[tuple[int, int]],
    channels: np.ndarray | None = None,
) -> list[torch.Tensor]:
    """For each (kv head, query head in it): `W_O W_V` with `W_O b_V`, and `W_Q^T W_K` with biases.

    `channels` is the order in which to take those of the residual stream.
    """
    found, (heads, group), hidden = projections(tensors, layer, tiny), tiny.heads, tiny.config["hidden_size"]
    if channels is not None:
        found["o"] = found["o"][channels]
        for name in "qkv":
            if found[name].shape[1] in (hidden, hidden + 1):  # a last column is the bias
                found[name] = torch.cat([found[name][:, channels], found[name][:, hidden:]], dim=1)
    q, v = found["q"].unflatten(0, (heads, group, -1)), found["v"].unflatten(0, (heads, -1))
    k, o = found["k"].unflatten(0, (heads, -1)), found["o"].unflatten(1, (heads, group, -1))
    return [
        product
        for kv, member in arrangement
        for product in (o[:, kv, member] @ v[kv], q[kv, member].T @ k[kv])
    ]


def origins(folder: Path, layer: int, tiny: Tiny) -> list[tuple[int, int]]:
    """Which old (kv head, member) stands at each new place, read from the stored permutations."""
    record = read_record(folder)
    manifest, elements = record.manifest, record.elements
    count, group = tiny.heads
    heads, members = np.arange(count), np.tile(np.arange(group), (count, 1))
    for step in manifest.steps:
        for record in step.elements:
            if step.layer == layer and record.axis == "kv_head":
                heads = elements[record.key]
            if step.layer == layer and record.axis == "group":
                members = elements[record.key]
    return [(heads[k], members[heads[k], g]) for k in range(count) for g in range(group)]


def stream(folder: Path) -> np.ndarray | None:
    """Which old channel of the residual stream stands at each new place."""
    record = read_record(folder)
    manifest, elements = record.manifest, record.elements
    for step in manifest.steps:
        if step.symmetry == "residual-permutation":
            return elements[step.elements[0].key]
    return None


def spectra(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Singular values, those of experts and heads that may trade places together."""
    found: dict[str, list[torch.Tensor]] = {}
    for name, weight in tensors.items():
        vectors = weight.ndim == 1 or name.endswith("_bias")  # GPT-OSS stacks biases of experts
        values = torch.linalg.norm(weight, dim=-1) if vectors else torch.linalg.svdvals(weight)
        found.setdefault(re.sub(r"(experts|norms)\.\d+", r"\1.*", name), []).append(values.flatten())
    return {name: torch.cat(values).sort().values for name, values in found.items()}


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=12)
@given(st.data())
@pytest.mark.train
def test_a_scramble_keeps_the_function_and_the_invariants(family: str, data: st.DataObject) -> None:
    tiny, chosen = data.draw(tinies((family,))), data.draw(symmetry_choices)
    layers = sorted(data.draw(st.sets(st.integers(0, tiny.layers - 1), min_size=1)))
    whole = all(one.startswith("residual") for one in chosen)
    with TemporaryDirectory() as scratch:
        base, target = tiny.save(Path(scratch) / "base"), Path(scratch) / "scrambled"
        asked = {
            "layers": None if whole else ",".join(map(str, layers)),
            "symmetries": chosen,
            "seed": tiny.seed,
            "check": False,
        }
        if reason := refusal(tiny, chosen, layers):
            with pytest.raises(SymmetryError, match=reason):
                apply(base, target, **asked)
            assert not target.exists()
            return
        apply(base, target, **asked)
        before, after = weights(base), weights(target)
        error = torch.linalg.norm(logits(target) - logits(base)) / torch.linalg.norm(logits(base))
        assert error < 1e-10
        identity = [(k, g) for k in range(tiny.heads[0]) for g in range(tiny.heads[1])]
        for layer in range(tiny.layers):
            old = attention(before, layer, tiny, origins(target, layer, tiny), stream(target))
            for one, two in zip(old, attention(after, layer, tiny, identity), strict=True):
                assert torch.linalg.norm(one - two) <= 1e-12 * torch.linalg.norm(one)
        for name, values in spectra(before).items():
            assert torch.allclose(values, spectra(after)[name], rtol=0, atol=1e-12 * float(values.max()))
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed, "a scramble changes something"
        if "residual-permutation" not in chosen:
            inside = re.compile(rf".*\.({'|'.join(map(str, layers))})\..*")
            norms = ("input_layernorm", "post_attention_layernorm", "ln_1", "ln_2", "embed")
            assert all(inside.match(name) and not any(part in name for part in norms) for name in changed)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_symmetries_together_keep_the_function_and_are_undone(family: str, tmp_path: Path) -> None:
    """One case a family of the laws that are swept above and below, in the plain configuration."""
    tiny, base, target = Tiny(family, 2, 2, 8, layers=2, seed=7), tmp_path / "base", tmp_path / "scrambled"
    chosen = ["vo-rotation", "head-permutation", "qk-rotation", "neuron-permutation", "residual-permutation"]
    if tiny.sparse:
        chosen.append(f"expert-permutation:layers={','.join(map(str, sorted(tiny.sparse)))}")
    manifest = apply(tiny.save(base), target, layers="all", symmetries=chosen, check=False)
    assert {step.symmetry for step in manifest.steps} == {one.split(":")[0] for one in chosen}
    before, after = weights(base), weights(target)
    matrices = [name for name, value in before.items() if value.ndim > 1]
    assert not [name for name in matrices if torch.equal(before[name], after[name])]
    reference = logits(base)
    assert torch.linalg.norm(logits(target) - reference) < 1e-10 * torch.linalg.norm(reference)
    invert(target, tmp_path / "back")
    for name, value in weights(tmp_path / "back").items():
        assert torch.allclose(value, before[name], rtol=0, atol=1e-13), name


@given(tinies(), symmetry_choices, st.sampled_from([torch.float64, torch.bfloat16]))
@pytest.mark.train
def test_invert_undoes_apply(tiny: Tiny, chosen: tuple[str, ...], dtype: torch.dtype) -> None:
    with TemporaryDirectory() as scratch:
        root = Path(scratch)
        base = tiny.save(root / "base", dtype)
        assume(not refusal(tiny, chosen, range(tiny.layers)))
        layers = None if all(one.startswith("residual") for one in chosen) else "all"
        apply(base, root / "scrambled", layers=layers, symmetries=chosen, check=False)
        invert(root / "scrambled", root / "back")
        if set(chosen) <= set(EXACT):
            assert (root / "back" / "model.safetensors").read_bytes() == (
                base / "model.safetensors"
            ).read_bytes()
        for name, old in weights(base).items():
            gap = torch.linalg.norm(weights(root / "back")[name].double() - old.double())
            assert gap <= (1e-14 if dtype is torch.float64 else 6e-3) * torch.linalg.norm(old.double()), name


@given(tinies())
@pytest.mark.train
def test_scrambles_stack_and_undo_in_reverse(tiny: Tiny) -> None:
    assume(not refusal(tiny, ("vo-rotation", "head-permutation"), ()))
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
@pytest.mark.train
def test_a_subset_of_layers_draws_what_the_whole_draws(tiny: Tiny) -> None:
    assume(not refusal(tiny, ("vo-rotation", "head-permutation"), ()))
    with TemporaryDirectory() as scratch:
        root = Path(scratch)
        base = tiny.save(root / "base", torch.bfloat16)
        apply(base, root / "all", layers="all", check=False)
        apply(base, root / "last", layers="-1", check=False)
        whole, part = weights(root / "all"), weights(root / "last")
        for name in whole:
            if re.match(rf"\D+\.{tiny.layers - 1}\.", name):
                assert torch.equal(whole[name], part[name])


@pytest.mark.parametrize("switched", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.train
def test_a_table_that_lacks_any_one_tensor_is_refused(
    family: str, switched: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = Tiny(family, 2, 2, 8, layers=2, switched=switched)  # the first may be dense
    base = tiny.save(tmp_path / "base", torch.bfloat16)
    checkpoint, sound = open_checkpoint(base), TABLES[family]
    slots = checkpoint.architecture.slots()
    for name in sorted(set(checkpoint.tensors) & set(slots)):
        short = slots[name].local
        lacking = replace(
            sound,
            table=lambda config, layer, short=short: _without(sound.table(config, layer), short),
            outside=lambda config, short=short: _without(sound.outside(config), short),
        )
        monkeypatch.setitem(TABLES, family, lacking)
        with pytest.raises(UnknownFamilyError, match="does not know"):
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
    elements = read_record(tmp_path / "out").elements
    (matrix,) = elements.values()
    np.testing.assert_allclose(np.abs(matrix), 8**-0.5)
    assert manifest.steps[0].options["method"] == "hadamard"
    assert torch.allclose(logits(tmp_path / "out"), logits(base), rtol=1e-6, atol=1e-6)


def test_every_symmetry_that_relabels_is_in_these_laws() -> None:
    """Those that do not are in tests/scramble/symmetries/test_scaling.py."""
    named = {choice.split(":")[0] for chosen in CHOICES for choice in chosen}
    others = {"residual-rotation", "vo-scaling", "qk-scaling", "neuron-scaling"}
    assert named | others == set(SYMMETRIES)  # the first of them is in test_fold.py
