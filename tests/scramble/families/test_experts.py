"""Mixtures of experts: stored tensors that trade names, routers that follow, routing groups that stay."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from scramble.errors import NotEquivalentError, SymmetryError
from scramble.measures.pairs.ends import ends
from scramble.measures.updates.tables import count_pairs, overlap
from scramble.operations.apply import apply
from scramble.operations.invert import invert
from scramble.symmetries.expert_permutation import ExpertPermutation
from scramble.transforms.record import read_record
from tests.models import MIXTURES, Tiny, logits, weights

ORDERS = (
    ("expert-permutation",),
    ("neuron-permutation",),
    ("expert-permutation", "neuron-permutation"),
    ("neuron-permutation", "expert-permutation"),
)
Tensors = dict[str, torch.Tensor]


def mixture(family: str, switched: bool = False) -> Tiny:
    return Tiny(family, kv_heads=2, group=1, head_dim=8, layers=3, switched=switched, seed=6)


def sparse(family: str) -> str:
    """Layers with routed experts."""
    return ",".join(map(str, sorted(mixture(family).sparse)))


def slow(folder: Path, tensors: Tensors, family: str) -> Tensors:
    """What the stored elements make of a base's tensors, entry by entry, by names written here."""
    record = read_record(folder)
    manifest, elements = record.manifest, record.elements
    for step in manifest.steps:
        prefix = f"model.layers.{step.layer}."
        for record in step.elements:
            tensors = _moved(tensors, prefix, record.axis, elements[record.key], family)
    return tensors


def _moved(tensors: Tensors, prefix: str, axis: str, order: np.ndarray, family: str) -> Tensors:
    image = dict(tensors)
    for name in tensors:
        if not name.startswith(prefix):
            continue
        local = name.removeprefix(prefix)
        numbered = re.fullmatch(r"(.*\.experts\.)(\d+)\.(.*)\.weight", local)
        stacked = family == "gpt_oss" and local.startswith("mlp.experts.")
        routed = local.endswith((".gate.weight", "router.weight", "router.bias", "e_score_correction_bias"))
        shared = ".shared_expert" in local and "_gate." not in local
        dense = re.fullmatch(r"mlp\.(gate|up|down)_proj\.weight", local)
        if axis == "expert" and numbered:
            source = int(order[int(numbered[2])])
            image[name] = tensors[f"{prefix}{numbered[1]}{source}.{numbered[3]}.weight"]
        elif axis == "expert" and (stacked or routed):
            image[name] = torch.stack([tensors[name][index] for index in order])
        elif axis == "expert_neuron" and numbered:
            image[name] = _neurons(tensors[name], order[int(numbered[2])], numbered[3] in ("down_proj", "w2"))
        elif axis == "expert_neuron" and stacked:
            image[name] = torch.stack([_fused(one, order[e], local) for e, one in enumerate(tensors[name])])
        elif (axis == "shared_neuron" and shared) or (axis == "neuron" and dense):
            image[name] = _neurons(tensors[name], order, "down_proj" in local)
    return image


def _neurons(weight: torch.Tensor, order: np.ndarray, outgoing: bool) -> torch.Tensor:
    return weight[:, order].contiguous() if outgoing else weight[order].contiguous()


def _fused(one: torch.Tensor, order: np.ndarray, local: str) -> torch.Tensor:
    """An expert of GPT-OSS: gate and up alternate in the last dimension, neurons are rows of `down_proj`."""
    if "gate_up" in local:
        return torch.stack([one[..., 2 * n + half] for n in order for half in (0, 1)], dim=-1)
    return one if "bias" in local else one[order]


@pytest.mark.parametrize("family", MIXTURES)
@settings(max_examples=4)
@given(order=st.sampled_from(ORDERS), switched=st.booleans(), seed=st.integers(0, 99))
@pytest.mark.train
def test_tensors_move_as_a_slow_definition_says(
    family: str, order: tuple[str, ...], switched: bool, seed: int
) -> None:
    tiny = mixture(family, switched)
    with TemporaryDirectory() as scratch:
        base, out, back = tiny.save(Path(scratch) / "base"), Path(scratch) / "out", Path(scratch) / "back"
        asked = tuple(f"{one}:layers={sparse(family)}" for one in order)
        apply(base, out, symmetries=asked, seed=seed, check=False)
        old, new = weights(base), weights(out)
        expected = slow(out, old, family)
        assert new.keys() == expected.keys()
        for name, value in new.items():
            assert torch.equal(value, expected[name]), name
        moved = {name for name in old if not torch.equal(old[name], new[name])}
        assert set(read_record(out).manifest.touched) >= moved
        assert all(re.search(r"\.(mlp|block_sparse_moe)\.", name) for name in moved)
        reference = logits(base)
        assert torch.linalg.norm(logits(out) - reference) < 1e-10 * torch.linalg.norm(reference)
        invert(out, back)
        assert (back / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()


@pytest.mark.parametrize("family", MIXTURES)
def test_router_and_experts_are_in_the_record(family: str, tmp_path: Path) -> None:
    base = mixture(family).save(tmp_path / "base", torch.bfloat16)
    first = "1" if family == "deepseek_v3" else "0"
    done = apply(base, tmp_path / "out", layers=first, symmetries=("expert-permutation",))
    routers = {
        "mixtral": {"block_sparse_moe.gate.weight"},
        "gpt_oss": {"mlp.router.weight", "mlp.router.bias"},
        "deepseek_v3": {"mlp.gate.weight", "mlp.gate.e_score_correction_bias"},
    }.get(family, {"mlp.gate.weight"})
    prefix = f"model.layers.{first}."
    local = {name.removeprefix(prefix) for name in done.touched}
    assert routers <= local
    assert all("experts" in name for name in local - routers)
    assert not any("shared" in name for name in local)
    old, new = weights(base), weights(tmp_path / "out")
    assert all(not torch.equal(old[prefix + name], new[prefix + name]) for name in routers)


@given(st.integers(0, 200))
def test_routing_groups_stay_together(seed: int) -> None:
    from scramble.families import architecture

    tiny = mixture("deepseek_v3")
    built = architecture(tiny.config | {"model_type": "deepseek_v3"})
    at = {
        (within, groups): ExpertPermutation(within=within, groups=groups).draw(built, seed, 1)[0].data
        for within, groups in ((True, True), (True, False), (False, True))
    }
    for data in at.values():
        assert sorted(data) == list(range(6))
        assert all(len(set(group)) == 1 for group in (data // 2).reshape(3, 2))
    assert (at[True, False] // 2 == np.arange(6) // 2).all()
    assert (at[True, False].reshape(3, 2) % 2 == [1, 0]).all()  # the only other order of two
    assert (at[False, True].reshape(3, 2) % 2 == [0, 1]).all()
    assert (at[False, True] != np.arange(6)).any()


def test_groups_that_are_torn_apart_are_another_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = mixture("deepseek_v3").save(tmp_path / "base", torch.bfloat16)
    monkeypatch.setattr(ExpertPermutation, "_shape", lambda self, architecture, layer: (1, 6))
    with pytest.raises(NotEquivalentError):
        apply(base, tmp_path / "out", layers="1,2", symmetries=("expert-permutation",))
    assert not (tmp_path / "out").exists()


def test_a_layer_without_experts_is_refused_and_so_is_nothing_to_permute(tmp_path: Path) -> None:
    base = mixture("qwen3_moe").save(tmp_path / "base", torch.bfloat16)
    with pytest.raises(SymmetryError, match=r"layer 1 .*no axis expert"):
        apply(base, tmp_path / "out", layers="all", symmetries=("expert-permutation",))
    with pytest.raises(SymmetryError, match=r"1 routing group\(s\) of 4"):
        apply(base, tmp_path / "out", layers="0", symmetries=("expert-permutation:within=false",))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("order", ORDERS[2:], ids=["experts first", "neurons first"])
@pytest.mark.parametrize("family", MIXTURES)
@pytest.mark.train
def test_an_update_that_is_moved_by_hand_comes_back_exactly(
    family: str, order: tuple[str, ...], tmp_path: Path
) -> None:
    base, start = mixture(family).save(tmp_path / "base", torch.bfloat16), tmp_path / "start"
    apply(base, start, symmetries=tuple(f"{one}:layers={sparse(family)}" for one in order), check=False)
    generator = torch.Generator().manual_seed(1)
    trained = {
        name: (value.float() + 3e-3 * torch.randn(value.shape, generator=generator)).to(torch.bfloat16)
        for name, value in weights(base).items()
    }
    for folder, tensors in (("end", trained), ("moved", slow(start, trained, family))):
        (tmp_path / folder).mkdir()
        save_file(tensors, tmp_path / folder / "model.safetensors", metadata={"format": "pt"})
        (tmp_path / folder / "config.json").write_bytes((base / "config.json").read_bytes())
    runs = [ends(base, tmp_path / "end", aligned=True), ends(start, tmp_path / "moved", aligned=True)]
    for name in runs[0].tensors:
        one, two = (run.read(name, "aligned") for run in runs)
        assert (one.start == two.start).all(), name
        assert (one.end == two.end).all(), name
        assert (one.delta == two.delta).all(), name
    table = overlap(count_pairs(runs), ["tensor"]).set_index(["tensor", "frame"])
    aligned = table.xs("aligned", level="frame")
    assert (aligned["jaccard"] == 1).all()
    inside = [name for name in aligned.index if "experts" in name and "bias" not in name]
    assert (table.xs("raw", level="frame").loc[inside, "jaccard"] < 0.9).mean() > 0.4
