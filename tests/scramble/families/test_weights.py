"""What of a checkpoint is a weight, and of which kind: buffers, quantised parts, experts, heads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from scramble.checkpoints import open_checkpoint
from scramble.errors import ScrambleError
from scramble.measures.geometry.mask_file import read_masks
from scramble.measures.pairs.ends import ends
from tests.conftest import Command
from tests.fake_runs import train
from tests.models import Tiny, edit_config, weights
from tests.scramble.written import Tensors, folder


def gptj(path: Path, mask: torch.dtype) -> tuple[Path, int]:
    """GPT-J as old conversions hold it: a causal mask and a constant a layer, and indices of positions."""
    config = AutoConfig.for_model(
        "gptj", n_embd=16, n_layer=2, n_head=2, rotary_dim=4, n_positions=64, vocab_size=31
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(path)
    tensors = weights(path)
    for layer in range(2):
        tensors[f"transformer.h.{layer}.attn.bias"] = torch.ones(64, 64).tril().view(1, 1, 64, 64).to(mask)
        tensors[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e9)
        tensors[f"transformer.h.{layer}.attn.embed_positions"] = torch.rand(64, 4)
    tensors["transformer.position_ids"] = torch.arange(64)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path, model.num_parameters()


@pytest.mark.parametrize("mask", [torch.float32, torch.bool, torch.uint8])
def test_masks_and_integers_of_a_family_without_a_table_are_named_and_left_out(
    mask: torch.dtype, tmp_path: Path, command: Command
) -> None:
    start, count = gptj(tmp_path / "start", mask)
    end = folder(tmp_path / "end", {}, **json.loads((start / "config.json").read_text()))
    tensors = weights(start)
    learnt = {
        n: v + (v.is_floating_point() and "bias" not in n and "positions" not in n)
        for n, v in tensors.items()
    }
    save_file(learnt, end / "model.safetensors", metadata={"format": "pt"})
    for names in (weights(start), {n: v for n, v in tensors.items() if "attn.bias" not in n}):
        save_file(names, start / "model.safetensors", metadata={"format": "pt"})
        found = command("diff", f"{start}:{end}", "--by", "model", "--format", "json")
        assert found.code == 0, found.err
        assert found.json["rows"][0]["n"] == count
        told = found.json["meta"]["left_out"]
        assert all(
            name in told
            for name in ("h.0.attn.bias", "h.1.attn.masked_bias", "embed_positions", "position_ids")
        )
        assert (found.err.count("\n"), found.err.startswith("scramble: left out (7): ")) == (1, True)
    assert "lm_head.bias" in open_checkpoint(start).parameters


def test_what_is_stored_in_a_quantised_format_is_named_and_left_out(tmp_path: Path, command: Command) -> None:
    generator = torch.Generator().manual_seed(0)
    plain = {"model.layers.0.norm.weight": torch.rand(6), "model.layers.0.mlp.bias": torch.rand(6)}
    held = plain | {
        "model.layers.0.a.weight": torch.randn(6, 6, generator=generator).to(torch.float8_e4m3fn),
        "model.layers.0.a.weight_scale_inv": torch.ones(1, 1),
        "model.layers.0.b.qweight": torch.ones(6, 6, dtype=torch.int32),
        "model.layers.0.b.scales": torch.ones(6, 1),
        "model.layers.0.b.g_idx": torch.arange(6),
        "model.layers.0.c.weight": torch.ones(6, dtype=torch.uint8),
        "model.layers.0.c.weight.absmax": torch.ones(2),
        "model.layers.0.layer_scale": torch.ones(6),
    }
    start = folder(tmp_path / "start", held, model_type="something-new")
    found = command("diff", f"{start}:{start}", "--by", "tensor", "--format", "json")
    assert found.code == 0, found.err
    assert {row["tensor"] for row in found.json["rows"]} == {*plain, "model.layers.0.layer_scale"}
    assert "model.layers.0.a.weight (stored as F8_E4M3)" in found.json["meta"]["left_out"]
    assert found.err.count("\n") == 1


def test_a_tensor_that_only_one_end_quantises_is_refused(tmp_path: Path, command: Command) -> None:
    tensors = {"model.layers.0.a.weight": torch.randn(6, 6), "model.norm.weight": torch.ones(6)}
    start = folder(tmp_path / "start", tensors, model_type="something-new")
    tensors["model.layers.0.a.weight"] = tensors["model.layers.0.a.weight"].to(torch.float8_e4m3fn)
    end = folder(tmp_path / "end", tensors, model_type="something-new")
    for text in (f"{start}:{end}", f"{end}:{start}"):
        found = command("diff", text)
        assert (found.code, found.out, found.err.count("\n")) == (2, "", 1)
        assert f"'model.layers.0.a.weight' is stored as F8_E4M3 in {end}" in found.err


def test_nothing_to_count_is_refused(tmp_path: Path, command: Command) -> None:
    start = folder(tmp_path / "a", {"w": torch.ones(2, dtype=torch.int64)}, model_type="something-new")
    found = command("diff", f"{start}:{start}")
    assert (found.code, found.out, found.err.count("\n")) == (2, "", 1)
    assert "no weights stored as plain floats" in found.err


@pytest.fixture
def oss(tmp_path: Path) -> tuple[Path, Path]:
    start = Tiny("gpt_oss", 2, 1, 6, layers=2, seed=1).save(tmp_path / "oss", torch.bfloat16)
    return start, train(start, tmp_path / "oss-end", 0, torch.bfloat16)


def test_experts_of_gpt_oss_are_matrices_one_by_one(oss: tuple[Path, Path], command: Command) -> None:
    start, end = oss
    old, new = weights(start), weights(end)
    arguments = ("spectra", f"{start}:{end}", "--rank", 3, "--format", "json", "--by")
    rows = command(*arguments, "tensor").json["rows"]
    found = {row["tensor"]: row for row in rows}
    stacks = [name for name, value in old.items() if value.ndim == 3]
    assert len(stacks) == 4
    for name in stacks:
        for expert in range(4):
            before, after = (tensors[name][expert].double().numpy() for tensors in (old, new))
            s, s2 = (np.linalg.svd(one, compute_uv=False) for one in (before, after))
            row = found.pop(f"{name}[{expert}]")
            assert row["nss"] == pytest.approx(np.linalg.norm(s2 - s) / np.linalg.norm(s), rel=1e-9)
            assert row["layer"] == int(name.split(".")[2])
    flat = {
        n
        for n, v in old.items()
        if v.ndim == 2 and "bias" not in n and "embed" not in n and "lm_head" not in n
    }
    assert set(found) == flat
    modules = {row["module"]: row["matrices"] for row in command(*arguments, "module").json["rows"]}
    assert (modules["gate_up_proj"], modules["down_proj"], modules["router"]) == (8, 8, 2)


def test_masks_of_experts_are_those_of_their_matrices(
    oss: tuple[Path, Path], tmp_path: Path, command: Command
) -> None:
    from scramble.measures.geometry.masks import all_masks
    from scramble.runs.recipe.masks import Geometric

    start, end = oss
    target = tmp_path / "masks.safetensors"
    done = command("principal", f"{start}:{end}", "--rank", 2, "--write", target, "--mask", "principal")
    assert done.code == 0, done.err
    written = read_masks(target)
    computed = Geometric(kind="principal", rank=2).masks(open_checkpoint(start))
    assert written.keys() == computed.keys()
    for name, mask in written.items():
        value = weights(start)[name].double().numpy()
        assert mask.shape == value.shape
        np.testing.assert_array_equal(mask, computed[name])
        for at, matrix in enumerate(value) if value.ndim == 3 else ():
            np.testing.assert_array_equal(mask[at], all_masks(matrix, 2, [0.5], 0, "x")[0]["principal"])
    assert {name for name in written if "experts" in name} == {
        n for n, v in weights(start).items() if v.ndim == 3
    }


def test_maps_and_rates_take_experts_one_by_one(
    oss: tuple[Path, Path], tmp_path: Path, command: Command
) -> None:
    start, end = oss
    other = train(start, tmp_path / "other", 1, torch.bfloat16)
    chosen = ("--modules", "down_proj", "--layers", 0, "--plot", tmp_path / "maps.svg", "--format", "json")
    rates = command("rates", f"{start}:{end}", *chosen, "--by", "tensor")
    assert rates.code == 0, rates.err
    assert {row["tensor"] for row in rates.json["rows"]} == {
        f"model.layers.0.mlp.experts.down_proj[{expert}]" for expert in range(4)
    }
    assert rates.json["meta"]["matrices"] == 4
    found = command("consensus", f"{start}:{end}", f"{start}:{other}", *chosen)
    assert found.code == 0, found.err


def test_rows_and_columns_of_experts_are_fitted_one_by_one(tmp_path: Path) -> None:
    """In one tensor or one by one, experts give the same counts; their stacked biases are vectors."""
    from scramble.measures.updates.tables import count_pairs

    start = Tiny("gpt_oss", 2, 1, 6, layers=1, seed=1).save(tmp_path / "start", torch.bfloat16)
    split: list[Path] = []
    stacked = [start, *(train(start, tmp_path / f"end{seed}", seed, torch.bfloat16) for seed in (0, 1))]
    for whole in stacked:
        tensors: Tensors = {}
        for name, value in weights(whole).items():
            stack = "experts" in name and value.ndim == 3
            flat = value.reshape(-1) if "experts" in name and value.ndim == 2 else value
            tensors |= {f"{name}.{at}.w": one for at, one in enumerate(value)} if stack else {name: flat}
        split.append(folder(whole.with_name(f"{whole.name}-split"), tensors, model_type="something-new"))
    sums = []
    for first, *others in (stacked, split):
        counts = count_pairs([ends(first, end) for end in others], ["raw"], row_column=True)
        inside = counts[counts["tensor"].str.contains("experts")]
        sums.append(inside[[name for name in counts if name.startswith("row_column")]].sum())
    assert sums[0].to_numpy() == pytest.approx(sums[1].to_numpy(), rel=1e-9)
    assert sums[0]["row_column_matched"] > 0


def test_an_expert_is_read_in_the_aligned_frame(oss: tuple[Path, Path], tmp_path: Path) -> None:
    from scramble.operations.apply import apply

    base, _ = oss
    start = tmp_path / "scrambled"
    apply(base, start, layers="0", symmetries=("neuron-permutation", "expert-permutation"), check=False)
    run = ends(start, train(start, tmp_path / "moved", 3, torch.bfloat16), aligned=True)
    name = "model.layers.0.mlp.experts.down_proj"
    whole = run.read(name, "aligned")
    for expert in range(4):
        part = run.read(f"{name}[{expert}]", "aligned")
        np.testing.assert_array_equal(part.start, whole.start[expert])
        np.testing.assert_array_equal(part.end, whole.end[expert])
    assert (whole.start != run.read(name, "raw").start).any()


def test_curvature_measures_experts_of_gpt_oss(tmp_path: Path, command: Command) -> None:
    from tests.models import with_tokenizer

    base = with_tokenizer(Tiny("gpt_oss", 2, 1, 6, layers=1, seed=1).save(tmp_path / "oss", torch.float32))
    end = train(base, tmp_path / "end", 0)
    text = tmp_path / "text.txt"
    text.write_text("1+2=3\n4+5=9\n" * 20)
    arguments = (
        "curvature",
        f"{base}:{end}",
        "--prompts",
        text,
        "--probes",
        0,
        "--sequences",
        3,
        "--length",
        8,
    )
    found = command(*arguments, "--modules", "down_proj", "--by", "tensor,module", "--format", "json")
    assert found.code == 0, found.err
    rows = {row["tensor"]: row for row in found.json["rows"] if row["level"] == "tensor"}
    assert set(rows) == {f"model.layers.0.mlp.experts.down_proj[{expert}]" for expert in range(4)}
    module = next(row for row in found.json["rows"] if row["level"] == "module")
    assert (module["matrices"], module["n"]) == (4, sum(row["n"] for row in rows.values()))


def test_an_unreadable_table_is_no_reason_to_count_buffers(tmp_path: Path) -> None:
    """A known family whose checkpoint does not fit its table is judged by transformers' class too."""
    base = Tiny("llama", 2, 1, 8, layers=1).save(tmp_path / "base", torch.bfloat16)
    tensors = weights(base) | {
        "model.extra.weight": torch.ones(3, 3),
        "model.rotary_emb.inv_freq": torch.ones(4),
    }
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    opened = open_checkpoint(base)
    with pytest.raises(ScrambleError, match=r"model\.extra"):
        _ = opened.architecture
    assert set(opened.left_out) == {"model.rotary_emb.inv_freq"}
    edit_config(base, model_type="something-new")
    assert set(open_checkpoint(base).left_out) == {"model.rotary_emb.inv_freq"}
