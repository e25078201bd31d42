"""Is the output head the embedding? One answer for every command, and it is transformers'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

from scramble.checkpoints import open_checkpoint
from scramble.errors import MismatchError
from scramble.families.tie import is_tied
from scramble.operations.fold import fold
from scramble.operations.verify import verify
from scramble.updates.ends import ends
from tests.conftest import Command
from tests.models import FAMILIES, Tiny, edit_config, logits, weights
from tests.scramble.test_fold import FOLDABLE, error

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
