"""Is the output head the embedding? One answer for every command, and it is transformers'."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

from scramble.checkpoints import open_checkpoint
from scramble.errors import MismatchError
from scramble.families.tie import is_tied
from scramble.measures.pairs.ends import ends
from scramble.operations.apply import apply
from scramble.operations.compose import compose
from scramble.operations.fold import fold
from scramble.operations.invert import invert
from scramble.operations.verify import verify
from tests.conftest import Command
from tests.families import FOLDABLE
from tests.models import FAMILIES, Tiny, edit_config, error, logits, weights

HEADS = ("lm_head.weight", "embed_out.weight")
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 31}


def silent(folder: Path) -> Path:
    config = json.loads((folder / "config.json").read_text())
    config.pop("tie_word_embeddings", None)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def with_head(folder: Path) -> Path:
    """Store the tied head beside the embedding, as older checkpoints do."""
    tensors = weights(folder)
    if not tensors.keys() & {*HEADS}:
        model = AutoModelForCausalLM.from_pretrained(folder)
        head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
        assert head.weight is embedding.weight
        name = next(key for key, one in model.named_modules(remove_duplicate=False) if one is head)
        old = next(key for key, one in model.named_modules(remove_duplicate=False) if one is embedding)
        tensors[f"{name}.weight"] = tensors[f"{old}.weight"].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def small(family: str, tied: bool = False) -> Tiny:
    return Tiny(family, kv_heads=2, group=2, head_dim=8, layers=1, tied=tied, seed=3)


def default(family: str) -> bool:
    return bool(CONFIG_MAPPING[family]().tie_word_embeddings)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.train
def test_a_silent_config_counts_the_weights_that_transformers_has(
    family: str, tmp_path: Path, command: Command
) -> None:
    base = silent(with_head(small(family, default(family)).save(tmp_path / "base")))
    model = AutoModelForCausalLM.from_pretrained(base)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == default(family) == bool(open_checkpoint(base).tied)
    counted = sum(
        value.numel()
        for name, value in weights(base).items()
        if not (tied and name in HEADS) and "correction_bias" not in name
    )
    parameters = sum(one.numel() for one in model.parameters())
    assert counted == parameters
    biases = sum(value.numel() for name, value in weights(base).items() if "correction_bias" in name)
    inspected = command("inspect", base, "--format", "json").json["meta"]
    assert inspected["parameters"] == parameters + biases
    found = command("diff", f"{base}:{base}", "--format", "json").json
    assert next(row for row in found["rows"] if row["level"] == "model")["n"] == parameters + biases


@pytest.mark.parametrize("family", [name for name in FAMILIES if default(name)])
@pytest.mark.train
def test_one_end_may_store_the_head_that_its_family_ties(
    family: str, tmp_path: Path, command: Command
) -> None:
    start = silent(small(family, tied=True).save(tmp_path / "start", torch.bfloat16))
    end = with_head(small(family, tied=True).save(tmp_path / "end", torch.bfloat16))
    untied = small(family).save(tmp_path / "untied", torch.bfloat16)
    for one, other in ((start, end), (end, start)):
        assert command("diff", f"{one}:{other}").code == 0
        with pytest.raises(MismatchError, match="only one ties"):
            ends(one, untied)
        assert verify(one, other).verdict == "equivalent"


def foreign(family: str, folder: Path, **settings: Any) -> Path:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SMALL, **settings))
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("family", "tied"), [("bloom", True), ("persimmon", False)])
def test_without_a_table_the_default_is_that_of_transformers(
    family: str, tied: bool, tmp_path: Path, command: Command
) -> None:
    assert default(family) is tied
    start = foreign(family, tmp_path / "start", tie_word_embeddings=True)
    end = with_head(foreign(family, tmp_path / "end", tie_word_embeddings=True))
    n = sum(one.numel() for one in AutoModelForCausalLM.from_pretrained(start).parameters())

    def count(one: Path, other: Path) -> int:
        rows = command("diff", f"{one}:{other}", "--format", "json").json["rows"]
        found: int = next(row for row in rows if row["level"] == "model")["n"]
        return found

    assert count(start, end) == count(end, end) == n
    edit_config(silent(end), unheard_of=1)
    assert is_tied(json.loads((end / "config.json").read_text())) is tied
    assert count(end, end) == n + (0 if tied else 31 * 16)
    if tied:
        assert count(start, end) == n


@pytest.mark.parametrize("head", ["stored", "not stored"])
@pytest.mark.parametrize("family", [name for name in FOLDABLE if default(name)])
def test_a_folded_model_is_loaded_untied_whatever_its_family_does_by_default(
    family: str, head: str, tmp_path: Path
) -> None:
    base = silent(small(family, tied=True).save(tmp_path / "base"))
    if head == "stored":
        with_head(base)
    done = fold(base, tmp_path / "folded").fold
    assert done is not None
    assert done.equivalence is not None
    assert done.equivalence.verdict == "equivalent"
    assert json.loads((tmp_path / "folded/config.json").read_text())["tie_word_embeddings"] is False
    assert error(tmp_path / "folded", base) < 1e-10
    with torch.inference_mode():
        assert torch.isfinite(logits(base)).all()


def without_head(folder: Path) -> Path:
    tensors = {name: value for name, value in weights(folder).items() if name not in HEADS}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def trained(start: Path, folder: Path) -> Path:
    """A start after a small update, but for its gains, in float32, with its head tied all the while."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(4)
    moved = {
        name: value.float() + (0 if "norm" in name else 1e-3) * torch.randn(value.shape, generator=generator)
        for name, value in weights(without_head(copied(start, folder / "first"))).items()
    }
    shutil.rmtree(folder / "first")
    save_file(moved, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_bytes((start / "config.json").read_bytes())
    return folder


def copied(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))


STORED = {True: with_head, False: without_head}


@pytest.mark.parametrize("start_stores", [True, False])
@pytest.mark.parametrize("end_stores", [True, False])
@pytest.mark.parametrize(
    ("family", "rotated"), [("llama", False), ("gpt2", False), ("gemma", False), ("llama", True)]
)
@pytest.mark.train
def test_a_tied_head_may_be_stored_by_one_end_only(
    family: str, rotated: bool, start_stores: bool, end_stores: bool, tmp_path: Path
) -> None:
    base, start = tmp_path / "base", tmp_path / "start"
    STORED[start_stores](small(family, tied=True).save(base, torch.bfloat16))
    if rotated:  # it commutes with gains that are all the same
        even = {
            name: torch.full_like(value, 1.25) if "norm" in name else value
            for name, value in weights(base).items()
        }
        save_file(even, base / "model.safetensors", metadata={"format": "pt"})
    whole = "residual-rotation" if rotated else "residual-permutation"
    assert apply(base, start, symmetries=(whole, "neuron-permutation:layers=0")).touched
    saved = STORED[end_stores](copied(start, tmp_path / "saved"))
    assert (weights(saved).keys() == weights(start).keys()) == (start_stores == end_stores)

    found = verify(base, saved)
    assert (found.verdict, found.weights_off) == ("equivalent", 0)
    words = weights(saved)
    name = next(one for one, value in words.items() if value.shape[0] == 31 and one not in HEADS)
    words[name].view(torch.int16).view(-1)[7] += 2
    damaged = copied(saved, tmp_path / "damaged")
    save_file(words, damaged / "model.safetensors", metadata={"format": "pt"})
    assert verify(base, damaged).weights_off == 1
    (saved / "scramble.json").unlink()
    assert verify(base, saved).verdict == "equivalent"

    images = compose(start)(weights(STORED[end_stores](copied(base, tmp_path / "whole"))))
    for key, value in weights(saved).items():
        assert np.allclose(images[key], value.double().numpy(), rtol=0.01, atol=0.01), key

    invert(saved, tmp_path / "back", manifest=start)
    one, two = weights(tmp_path / "back"), weights(STORED[end_stores](copied(base, tmp_path / "as saved")))
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert torch.allclose(value, two[key], atol=0.02) if rotated else torch.equal(value, two[key]), key

    end = STORED[end_stores](trained(start, tmp_path / "end"))
    run = ends(start, end, aligned=True)
    home = tmp_path / "home"
    invert(end, home, manifest=start)
    unscrambled = ends(base, home)
    assert run.tensors == unscrambled.tensors
    for key in run.tensors:
        aligned, expected = run.read(key, "aligned"), unscrambled.read(key, "raw")
        assert np.abs(aligned.delta - expected.delta).max() < (0.02 if rotated else 1e-6), key
        assert aligned.delta.any() or "norm" in key
