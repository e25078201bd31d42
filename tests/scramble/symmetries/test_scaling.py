"""Scalings by powers of two and signs: the function stays bit for bit, and so does every coordinate."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

import scramble
from scramble.architecture.axes import parse
from scramble.checkpoints import STORAGES, open_checkpoint
from scramble.errors import CheckpointError, SymmetryError
from scramble.families import architecture
from scramble.symmetries import Rotation, Scaling, act, symmetry
from scramble.symmetries.scaling import NeuronScaling, QkScaling, VoScaling
from scramble.transforms.plan import Transform
from scramble.transforms.record import read_record
from tests.fake_runs import train
from tests.models import FAMILIES as EVERY
from tests.models import Tiny, error, tinies, weights

SIZES = {"kv_head": 3, "group": 2, "v": 5, "hidden": 7}
TEXTS = [
    "(kv_head group v) hidden",
    "(kv_head v)",
    "hidden (kv_head group v*)",
    "(kv_head (group v* + v)) hidden",
]
LAYERS = "0,1"
# A family a layout; all of them are in the reference's table (tests/docs/test_support.py).
FAMILIES = ("qwen2", "phi3", "mixtral", "deepseek_v3", "gpt2")
ASKED = (
    *("vo-scaling", "vo-scaling:per=head,k=3", "vo-scaling:per=tensor"),
    *("qk-scaling", "qk-scaling:per=head", "qk-scaling:per=tensor,k=2,mirrored=true"),
    *("neuron-scaling:k=2", "neuron-scaling:per=tensor"),
    *("neuron-permutation:signs=true", "residual-permutation:signs=true"),
)
UNGATED = ("gpt2",)
NO_GATE = ("falcon", "gpt2", "gpt_neox", "gpt_oss", "opt", "phi", "starcoder2")
MEANS = ("cohere", "falcon", "gpt2", "gpt_neox", "olmo", "opt", "phi", "stablelm", "starcoder2")
PAIRS = [
    (family, asked)
    for family in FAMILIES
    for asked in ASKED
    if family not in UNGATED or not asked.startswith(("neuron", "residual"))
]


def scaling(seed: int, most: int = 3) -> Scaling:
    drawn = np.random.default_rng(seed).integers(-most, most, (3, 5), endpoint=True)
    return Scaling("v", ("kv_head",), drawn)


@given(st.integers(0, 100), st.sampled_from(TEXTS), st.sampled_from(list(STORAGES)))
def test_words_are_scaled_as_their_values_are_and_the_inverse_brings_every_bit_back(
    seed: int, text: str, dtype: str
) -> None:
    layout, storage, element = parse(text), STORAGES[dtype], scaling(seed)
    words = storage.encode(np.random.default_rng(seed).standard_normal(layout.shape(SIZES)) + 3)
    moved = act(words, layout, SIZES, [element])
    assert moved.dtype == words.dtype
    np.testing.assert_array_equal(storage.decode(moved), act(storage.decode(words), layout, SIZES, [element]))
    np.testing.assert_array_equal(act(moved, layout, SIZES, [element.inverse()]), words)


@given(st.integers(0, 100))
def test_a_pairing_of_an_axis_with_its_dual_stays(seed: int) -> None:
    """`sum_v o[v] x[v]`, for rotations and scalings alike; without the dual it does not."""
    rng, sizes = np.random.default_rng(seed), {"kv_head": 3, "v": 5}
    x, o = rng.standard_normal((2, 15))
    turn = Rotation(
        "v", ("kv_head",), np.stack([np.linalg.qr(rng.standard_normal((5, 5)))[0] for _ in range(3)])
    )
    for element in (turn, scaling(seed)):
        written = act(x, parse("(kv_head v)"), sizes, [element])
        read = act(o, parse("(kv_head v*)"), sizes, [element])
        assert written @ read == pytest.approx(x @ o, rel=1e-12)
    assert not np.allclose(act(o, parse("(kv_head v)"), sizes, [scaling(0)]), read)


@given(st.integers(0, 50), st.sampled_from(["|v|", "v~"]))
def test_gains_and_what_lies_beside_a_nonlinearity_stay(seed: int, text: str) -> None:
    x = np.random.default_rng(seed).standard_normal(5)
    assert (act(x, parse(text), {"v": 5}, [Scaling("v", (), np.arange(5))]) == x).all()
    assert not scaling(seed).concerns(parse(text))


def test_a_rotation_beside_a_nonlinearity_is_refused(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(Tiny("llama", 2, 2, 8, layers=1).save(tmp_path / "m", torch.float32))
    turn = Rotation("neuron", (), np.eye(20)[::-1].copy())
    with pytest.raises(SymmetryError, match="neuron beside a nonlinearity"):
        _ = Transform(checkpoint, [(0, turn)]).actions


def computed(folder: Path, dtype: torch.dtype) -> torch.Tensor:
    """Logits in the dtype's own arithmetic."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, experts_implementation="eager").eval()
    tokens = torch.randint(0, 31, (2, 11), generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        return model(tokens).logits


@pytest.mark.parametrize(("family", "asked"), PAIRS)
def test_logits_are_equal_bit_for_bit_and_the_inverse_is_the_base(
    family: str, asked: str, tmp_path: Path
) -> None:
    for dtype in (torch.bfloat16, torch.float32):
        tiny = Tiny(family, 2, 2 if family not in ("deepseek_v3", *UNGATED) else 1, 8, layers=2, seed=3)
        base, out, back = (tmp_path / f"{name}-{dtype}" for name in ("base", "out", "back"))
        tiny.save(base, dtype)
        whole = asked.startswith("residual")
        done = scramble.apply(
            base, out, layers=None if whole else LAYERS, symmetries=(asked,), check=dtype is torch.bfloat16
        )
        if found := done.scrambles[-1].equivalence:
            assert found.equivalent
            assert found.weights_off == 0
        if not whole and asked != "neuron-permutation:signs=true":  # those add in another order
            assert torch.equal(computed(base, dtype), computed(out, dtype))
        scramble.invert(out, back)
        old, new, returned = weights(base), weights(out), weights(back)
        assert all(torch.equal(old[name], returned[name]) for name in old)
        assert any(not torch.equal(old[name], new[name]) for name in old)


def refusal(tiny: Tiny, asked: str) -> str | None:
    """What a refusal must say, written from transformers' modules."""
    switched = tiny.family if tiny.switched else None
    if asked.startswith(("vo-scaling", "qk-scaling")) and switched == "olmo":
        return "clip_qkv"
    if asked.startswith("qk-scaling"):
        if tiny.family in ("gemma3_text", "olmo2", "qwen3", "qwen3_moe"):
            return "takes the change of scale back"
        if switched in ("cohere", "phi", "stablelm"):
            return "LayerNorm"
    if asked.startswith("neuron") and tiny.family in NO_GATE:
        return "no tensor is linear"
    return "does not follow a sign" if asked.startswith("residual") and tiny.family in MEANS else None


@pytest.mark.train
@pytest.mark.parametrize("family", EVERY)
@settings(max_examples=12)
@given(st.data())
def test_every_family_keeps_its_function_or_refuses(family: str, data: st.DataObject) -> None:
    tiny, asked = data.draw(tinies((family,))), data.draw(st.sampled_from(ASKED))
    chosen = [asked, "head-permutation"] if data.draw(st.booleans()) and not tiny.switched else [asked]
    with TemporaryDirectory() as scratch:
        base, target, back = (Path(scratch) / name for name in ("base", "target", "back"))
        tiny.save(base)
        if reason := refusal(tiny, asked):
            with pytest.raises(SymmetryError, match=reason):
                scramble.apply(base, target, layers="all", symmetries=chosen, check=False)
            return
        layers = None if asked.startswith("residual") and len(chosen) == 1 else "all"
        scramble.apply(base, target, layers=layers, symmetries=chosen, check=False)
        assert error(target, base) < 1e-12
        scramble.invert(target, back)
        assert (back / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("family", "asked", "says"),
    [
        ("qwen3", "qk-scaling", "a norm takes the change of scale back"),
        ("gpt2", "neuron-scaling", "no tensor is linear in neuron"),
        ("gpt2", "neuron-permutation:signs=true", "no tensor is linear in neuron"),
        ("gpt_oss", "neuron-scaling", "no tensor is linear in neuron"),
        ("gpt2", "residual-permutation:signs=true", "does not follow a sign"),
        ("llama", "vo-scaling:k=0", "k"),
        ("llama", "vo-scaling:k=9", "k"),
        ("llama", "vo-scaling:per=pair", "per"),
    ],
)
def test_what_is_no_symmetry_is_refused(family: str, asked: str, says: str, tmp_path: Path) -> None:
    base = Tiny(family, 2, 1, 8, layers=2).save(tmp_path / "base", torch.bfloat16)
    whole = asked.startswith("residual")
    with pytest.raises(SymmetryError, match=says):
        scramble.apply(base, tmp_path / "out", layers=None if whole else "0", symmetries=(asked,))
    assert not (tmp_path / "out").exists()


def test_a_clamp_forbids_it(tmp_path: Path) -> None:
    base = Tiny("olmo", 2, 1, 8, layers=1, switched=True).save(tmp_path / "base", torch.bfloat16)
    for asked in ("vo-scaling", "qk-scaling"):
        with pytest.raises(SymmetryError, match="a clamp at a constant"):
            scramble.apply(base, tmp_path / "out", layers="0", symmetries=(asked,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("value", ["smallest", "subnormal", "largest"])
def test_a_value_that_leaves_the_normal_numbers_is_refused(
    dtype: torch.dtype, value: str, tmp_path: Path
) -> None:
    base = Tiny("llama", 2, 1, 8, layers=1).save(tmp_path / "base", dtype)
    tensors, info = weights(base), torch.finfo(dtype)
    planted = {"smallest": info.tiny, "subnormal": info.tiny / 4, "largest": info.max}[value]
    tensors["model.layers.0.self_attn.v_proj.weight"].fill_(planted)
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"v_proj.*out of the normal numbers"):
        scramble.apply(base, tmp_path / "out", layers="0", symmetries=("vo-scaling",), check=False)
    tensors["model.layers.0.self_attn.v_proj.weight"].fill_(0)  # zero is no matter
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    scramble.apply(base, tmp_path / "out", layers="0", symmetries=("vo-scaling",), check=False)


@pytest.mark.parametrize("kind", [VoScaling, QkScaling, NeuronScaling])
@given(seed=st.integers(0, 200), k=st.integers(1, 8), options=st.data())
def test_draws_are_of_the_group_and_mirrors_are_inverses(kind: Any, seed: int, k: int, options: Any) -> None:
    per = options.draw(st.sampled_from(kind.model_fields["per"].annotation.__args__))
    family = options.draw(st.sampled_from(["llama", "phi3", "deepseek_v3", "qwen2_moe"]))
    tiny = Tiny(family, 2, 1, 8, layers=2, switched=family == "phi3")
    model = architecture(tiny.config | {"model_type": family})
    one, other = (kind(k=k, per=per, mirrored=mirrored).draw(model, seed, 0) for mirrored in (False, True))
    for first, second in zip(one, other, strict=True):
        assert first.fault() is None
        assert (first.data == -second.data).all()
        assert 0 < np.abs(first.data).max() <= k
        if per == "tensor":
            assert len(np.unique(first.data)) == 1 or first.over == ("expert",)


def test_rotary_pairs_are_scaled_alike(tmp_path: Path) -> None:
    base = Tiny("llama", 2, 1, 8, layers=1).save(tmp_path / "base", torch.float32)
    model = open_checkpoint(base).architecture
    (element,) = QkScaling(k=2).draw(model, 3, 0)
    assert (element.data[:, :4] == element.data[:, 4:]).all()
    assert len(np.unique(element.data[:, :4])) > 1


@pytest.mark.parametrize("asked", ["vo-scaling:k=3", "qk-scaling", "neuron-scaling"])
def test_the_aligned_frame_of_bf16_ends_is_exact(asked: str, tmp_path: Path) -> None:
    """A run of the base, carried to the scaled start: no rounding differs, so the masks are the same."""
    base = Tiny("llama", 2, 2, 8, layers=2, seed=4).save(tmp_path / "base", torch.bfloat16)
    start = tmp_path / "start"
    scramble.apply(base, start, layers=LAYERS, symmetries=(asked,))
    end = train(base, tmp_path / "end", 0, torch.bfloat16)
    moved = tmp_path / "moved"
    moved.mkdir()
    transform = read_record(start).transform(open_checkpoint(base))
    images = {name: torch.from_numpy(value).bfloat16() for name, value in transform(weights(end)).items()}
    save_file(images, moved / "model.safetensors", metadata={"format": "pt"})
    (moved / "config.json").write_bytes((base / "config.json").read_bytes())
    there = scramble.overlap([(base, end), (start, moved)], by=["tensor"], frame="both")
    for frame in ("raw", "aligned"):
        rows = there[(there["frame"] == frame) & (there["density_a"] > 0)]
        assert len(rows) > 10
        assert (rows["jaccard"] == 1).all()


def test_symmetries_are_read_from_text() -> None:
    assert symmetry("vo-scaling", {"k": "2", "per": "head", "mirrored": "true"}) == VoScaling(
        k=2, per="head", mirrored=True
    )
