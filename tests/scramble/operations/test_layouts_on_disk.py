"""Checkpoints as hubs hold them: other prefixes, buffers, quantised parts, layers that transformers drops."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from scramble.checkpoints import open_checkpoint
from scramble.errors import CheckpointError, ScrambleError, UndecidedError
from scramble.operations.apply import apply
from scramble.operations.fold import fold
from scramble.operations.inspect import inspect
from scramble.operations.invert import invert
from scramble.operations.verify import verify
from tests.models import Tiny, edit_config, logits, weights
from tests.scramble.written import with_mtp
from tests.training import swept

Tensors = dict[str, torch.Tensor]
LAYERS, POSITIONS = 2, 64


def rewrite(folder: Path, tensors: Tensors) -> None:
    save_file(
        {name: value.contiguous() for name, value in tensors.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )


def mask(kind: torch.dtype) -> torch.Tensor:
    return torch.ones(POSITIONS, POSITIONS).tril().view(1, 1, POSITIONS, POSITIONS).to(kind)


def bare(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {
        name.removeprefix(prefix): value for name, value in tensors.items() if name != "lm_head.weight"
    }


def old_gpt2(tensors: Tensors) -> Tensors:
    buffers = {f"h.{layer}.attn.bias": mask(torch.float32) for layer in range(LAYERS)}
    buffers |= {f"h.{layer}.attn.masked_bias": torch.tensor(-1e4) for layer in range(LAYERS)}
    return bare("transformer.")(tensors) | buffers


def pythia(kind: torch.dtype) -> Callable[[Tensors], Tensors]:
    def convert(tensors: Tensors) -> Tensors:
        for layer in range(LAYERS):
            prefix = f"gpt_neox.layers.{layer}.attention."
            tensors[f"{prefix}bias"] = mask(kind)
            tensors[f"{prefix}masked_bias"] = torch.tensor(-1e9)
            tensors[f"{prefix}rotary_emb.inv_freq"] = 10000 ** -torch.arange(0, 1, 1.0)
        return tensors

    return convert


def old_llama(tensors: Tensors) -> Tensors:
    inv = {
        f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": 1e4 ** (-torch.arange(0, 8, 2) / 8)
        for layer in range(LAYERS)
    }
    return tensors | inv


def top_llama(tensors: Tensors) -> Tensors:
    return tensors | {"model.rotary_emb.inv_freq": 1e4 ** (-torch.arange(0, 8, 2) / 8)}


def without(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name.removeprefix(prefix): value for name, value in tensors.items()}


def fused(gate: str, up: str, down: str) -> Callable[[Tensors], Tensors]:
    """Experts as transformers holds them in memory: gate above up, one after the other in one tensor."""

    def convert(tensors: Tensors) -> Tensors:
        found = {name: value for name, value in tensors.items() if ".experts." not in name}
        found = {name.replace("block_sparse_moe.", "mlp."): value for name, value in found.items()}
        prefixes = {name.split(".experts.")[0] for name in tensors if ".experts." in name}
        for prefix in prefixes:
            experts = range(len([name for name in tensors if name.startswith(f"{prefix}.experts.")]) // 3)
            parts = {
                kind: torch.stack([tensors[f"{prefix}.experts.{at}.{kind}.weight"] for at in experts])
                for kind in (gate, up, down)
            }
            there = prefix.replace("block_sparse_moe", "mlp")
            found[f"{there}.experts.gate_up_proj"] = torch.cat([parts[gate], parts[up]], dim=1)
            found[f"{there}.experts.down_proj"] = parts[down]
        return found

    return convert


_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
LAYOUTS: dict[str, tuple[str, bool, Callable[[Tensors], Tensors]]] = {
    "gpt2 without prefix, head, and with masks": ("gpt2", True, old_gpt2),
    "gpt_neox with masks of bytes": ("gpt_neox", False, pythia(torch.uint8)),
    "llama with rotary frequencies": ("llama", False, old_llama),
    "llama without prefix and head": ("llama", True, bare("model.")),
    "mixtral with fused experts": ("mixtral", False, fused("w1", "w3", "w2")),
    "deepseek_v3 with fused experts": ("deepseek_v3", False, fused(*_PROJECTIONS)),
    "opt without prefix": ("opt", True, bare("model.")),
    "qwen3_moe with num_experts": ("qwen3_moe", False, lambda tensors: tensors),
    "gpt2 without head": ("gpt2", True, lambda tensors: tensors),
    "gpt_neox with masks of bools": ("gpt_neox", False, pythia(torch.bool)),
    "llama with rotary frequencies at the top": ("llama", False, top_llama),
    "llama without prefix": ("llama", False, without("model.")),
    "gemma without prefix and head": ("gemma", True, bare("model.")),
    "gpt_neox without prefix": ("gpt_neox", False, without("gpt_neox.")),
    "qwen2_moe with fused experts": ("qwen2_moe", False, fused(*_PROJECTIONS)),
    "qwen3_moe with fused experts": ("qwen3_moe", False, fused(*_PROJECTIONS)),
}
SYMMETRIES = ("vo-rotation", "head-permutation", "qk-rotation", "neuron-permutation", "residual-permutation")


@pytest.fixture
def hub(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    family, tied, convert = LAYOUTS[request.param]
    base = Tiny(family, 2, 2, 8, LAYERS, tied=tied, seed=2).save(tmp_path / "base")
    rewrite(base, convert(weights(base)))
    if "num_experts" in request.param:
        config = json.loads((base / "config.json").read_text())
        config["num_experts"] = config.pop("num_local_experts", None) or config["num_experts"]
        (base / "config.json").write_text(json.dumps(config))
    return base


@pytest.mark.parametrize("hub", swept(LAYOUTS, kept=8), indirect=True)
def test_a_layout_of_the_hub_is_scrambled_verified_and_inverted(hub: Path, tmp_path: Path) -> None:
    out, back = tmp_path / "out", tmp_path / "back"
    slots = open_checkpoint(hub).architecture.slots().values()
    sparse = sorted({slot.layer for slot in slots if slot.routed and slot.layer is not None})
    assert bool(sparse) == any("experts" in name for name in weights(hub))
    more = (f"expert-permutation:layers={','.join(map(str, sparse))}",) if sparse else ()
    manifest = apply(hub, out, layers="all", symmetries=(*SYMMETRIES, *more))
    (done,) = manifest.scrambles
    assert done.equivalence is not None
    assert done.equivalence.verdict == "equivalent"
    assert done.equivalence.weights_off == 0
    assert verify(hub, out) == done.equivalence
    reference = logits(hub)
    assert torch.linalg.norm(logits(out) - reference) < 1e-10 * torch.linalg.norm(reference)
    old, new = weights(hub), weights(out)
    buffers = [name for name in old if name.endswith((".attn.bias", "masked_bias", "attention.bias", "freq"))]
    assert all(torch.equal(old[name], new[name]) and name not in done.tensors for name in buffers)
    invert(out, back)
    for name, value in weights(back).items():
        assert torch.allclose(value.double(), old[name].double(), rtol=0, atol=1e-13), name
    found = inspect(out)
    assert {"vo-rotation", "neuron-permutation", "residual-permutation"} <= {
        *found["symmetry"][found["applies"]]
    }
    assert found.attrs["meta"]["parameters"] == sum(
        value.numel() for name, value in old.items() if name not in buffers
    )


def mxfp4(folder: Path) -> Path:
    """GPT-OSS as released: experts in blocks of 32 values, 16 bytes each, and a scale a block."""
    tiny = Tiny("gpt_oss", 2, 2, 8, LAYERS, seed=2)
    base = tiny.save(folder / "base", torch.bfloat16)
    tensors, generator = weights(base), torch.Generator().manual_seed(0)
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        rows = tensors.pop(name).shape[2]
        for part, shape in (("blocks", (4, rows, 1, 16)), ("scales", (4, rows, 1))):
            tensors[f"{name}_{part}"] = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    rewrite(base, tensors)
    edit_config(base, quantization_config={"quant_method": "mxfp4"})
    return base


def fp8(folder: Path) -> Path:
    """DeepSeek-V3 as released: every linear map in FP8 beside its scales."""
    tiny = Tiny("deepseek_v3", 2, 1, 8, LAYERS, seed=2)
    base = tiny.save(folder / "base", torch.bfloat16)
    tensors = weights(base)
    for name in [name for name in tensors if name.endswith("_proj.weight") or "kv_a_proj" in name]:
        tensors[name] = tensors[name].to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = torch.ones(1, 1)
    rewrite(base, tensors)
    edit_config(base, quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]})
    return base


def test_attention_beside_mxfp4_experts_is_scrambled_and_the_blocks_are_copied(tmp_path: Path) -> None:
    base, out = mxfp4(tmp_path), tmp_path / "out"
    chosen = ("vo-rotation", "head-permutation", "qk-rotation")
    done = apply(base, out, layers="all", symmetries=chosen, check=False)
    old, new = weights(base), weights(out)
    assert old.keys() == new.keys()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed == set(done.touched)
    assert all("self_attn" in name for name in changed)
    assert {f"model.layers.{n}.self_attn.sinks" for n in range(LAYERS)} <= changed
    invert(out, tmp_path / "back")
    back = weights(tmp_path / "back")
    assert all(torch.equal(old[name], back[name]) for name in old if "experts" in name)


@pytest.mark.parametrize("build", [mxfp4, fp8])
@pytest.mark.parametrize("asked", ["expert-permutation", "neuron-permutation", "residual-permutation"])
def test_what_would_touch_quantised_weights_is_refused_by_name(
    build: Callable[[Path], Path], asked: str, tmp_path: Path
) -> None:
    base = build(tmp_path)
    layers = None if asked.startswith("residual") else "1"
    with pytest.raises(CheckpointError, match=r"model\.layers\.\d.*\.(mlp|self_attn)\..*quantised format"):
        apply(base, tmp_path / "out", layers=layers, symmetries=(asked,), check=False)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize("asked", ["vo-rotation", "head-permutation", "qk-rotation"])
def test_attention_in_fp8_is_refused_by_name(asked: str, tmp_path: Path) -> None:
    base = fp8(tmp_path)
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.self_attn\..*quantised format"):
        apply(base, tmp_path / "out", layers="1", symmetries=(asked,))
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize("build", [mxfp4, fp8])
def test_a_quantised_base_is_not_folded_in_parts(
    build: Callable[[Path], Path], check: bool, tmp_path: Path
) -> None:
    base = build(tmp_path)
    with pytest.raises(CheckpointError, match=r"model\.layers\.\d\.(mlp|self_attn)\..*quantised format"):
        fold(base, tmp_path / "out", check=check)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize("build", [mxfp4, fp8])
def test_inspect_reads_a_quantised_checkpoint(build: Callable[[Path], Path], tmp_path: Path) -> None:
    found = inspect(build(tmp_path))
    assert {*found["symmetry"][found["applies"]]} >= {"vo-rotation", "head-permutation"}
    assert found.attrs["meta"]["stored"] in ("BF16, U8", "BF16, F32, F8_E4M3")


def test_what_cannot_be_verified_beside_quantised_weights_says_so(tmp_path: Path) -> None:
    base = mxfp4(tmp_path)
    with pytest.raises(ScrambleError) as caught:
        apply(base, tmp_path / "out", layers="1", symmetries=("vo-rotation",))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_layer_symmetries_leave_the_mtp_layer_alone(tmp_path: Path) -> None:
    base, out = with_mtp(tmp_path), tmp_path / "out"
    chosen = ("vo-rotation", "head-permutation", "qk-rotation", "neuron-permutation")
    done = apply(base, out, layers="all", symmetries=(*chosen, "expert-permutation:layers=1"))
    assert done.scrambles[0].equivalence is not None
    assert not any(".layers.2." in name for name in done.touched)
    old, new = weights(base), weights(out)
    assert all(torch.equal(old[name], new[name]) for name in old if ".layers.2." in name)
    reference = logits(base)
    assert torch.linalg.norm(logits(out) - reference) < 1e-10 * torch.linalg.norm(reference)
    with pytest.raises(ScrambleError, match="outside this model's layers 0 to 1"):
        apply(base, tmp_path / "none", layers="2", symmetries=chosen)


def test_folding_leaves_the_mtp_layer_alone(tmp_path: Path) -> None:
    """transformers does not run it, so that no verification would see it."""
    base, out = with_mtp(tmp_path), tmp_path / "out"
    done = fold(base, out).fold
    assert done is not None
    assert done.tensors
    assert not any(".layers.2." in name for name in done.tensors)
    old, new = weights(base), weights(out)
    assert all(torch.equal(old[name], new[name]) for name in old if ".layers.2." in name)


def test_the_residual_stream_is_permuted_in_the_mtp_layer_too(tmp_path: Path) -> None:
    base, out = with_mtp(tmp_path), tmp_path / "out"
    with pytest.raises(UndecidedError, match=r"model\.layers\.2\..* takes no part in the logits"):
        apply(base, out, symmetries=("residual-permutation",))
    assert not out.exists()
    apply(base, out, symmetries=("residual-permutation",), check=False)
    old, new = weights(base), weights(out)
    hidden, prefix = old["model.norm.weight"].shape[0], "model.layers.2."
    embedding = old["model.embed_tokens.weight"]
    columns = new["model.embed_tokens.weight"].T
    order = torch.tensor([int((embedding == column[:, None]).all(0).nonzero()) for column in columns])
    assert sorted(order.tolist()) == list(range(hidden))
    for name in ("embed_tokens.weight", "shared_head.head.weight", "self_attn.q_proj.weight"):
        assert torch.equal(new[prefix + name], old[prefix + name][:, order]), name
    for name in ("enorm.weight", "hnorm.weight", "shared_head.norm.weight", "self_attn.o_proj.weight"):
        assert torch.equal(new[prefix + name], old[prefix + name][order]), name
    both = torch.cat([order, order + hidden])
    assert torch.equal(new[f"{prefix}eh_proj.weight"], old[f"{prefix}eh_proj.weight"][order][:, both])
    name = f"{prefix}mlp.experts.3.down_proj.weight"
    assert torch.equal(new[name], old[name][order])
    assert torch.equal(new[f"{prefix}mlp.gate.weight"], old[f"{prefix}mlp.gate.weight"][:, order])
    invert(out, tmp_path / "back")
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()
