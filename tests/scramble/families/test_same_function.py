"""`verify` compares what decides the function: a config as transformers reads it, not its keys."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from scramble.checkpoints import open_checkpoint
from scramble.checkpoints.configuration import NO_PART_IN_THE_FUNCTION, difference
from scramble.errors import MismatchError, UndecidedError
from scramble.operations.apply import apply
from scramble.operations.verify import verify
from tests.conftest import Command
from tests.models import FAMILIES, Tiny, edit_config, logits

IGNORED = {key for keys in NO_PART_IN_THE_FUNCTION.values() for key in keys}
# What may have another value, by its kind: the others are no numbers, or change the form of the output.
NUMBERS = ("drop", "init", "router_", "token_id", "use_cache", "pretraining_tp")


def tiny(family: str) -> Tiny:
    return Tiny(family, kv_heads=2, group=2, head_dim=8, layers=1, seed=5)


def older(config: dict[str, Any]) -> dict[str, Any]:
    """The same config with the keys of earlier versions of transformers."""
    config = copy.deepcopy(config)
    rotary = config.pop("rope_parameters", None)
    config["torch_dtype"] = config.pop("dtype")
    del config["transformers_version"], config["architectures"]
    if not config["tie_word_embeddings"] and not CONFIG_MAPPING[config["model_type"]]().tie_word_embeddings:
        del config["tie_word_embeddings"]
    if rotary is None:
        return config
    if "full_attention" in rotary:
        config["rope_theta"] = rotary["full_attention"]["rope_theta"]
        config["rope_local_base_freq"] = rotary["sliding_attention"]["rope_theta"]
        return config
    neox = config["model_type"] == "gpt_neox"
    config["rotary_emb_base" if neox else "rope_theta"] = rotary.pop("rope_theta")
    if (part := rotary.pop("partial_rotary_factor", None)) is not None:
        config["rotary_pct" if neox else "partial_rotary_factor"] = part
    rotary["type"] = rotary.pop("rope_type")
    return config | {"rope_scaling": rotary}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_transformers_saves_again_is_the_same_model(family: str, tmp_path: Path) -> None:
    base = tiny(family).save(tmp_path / "base", torch.bfloat16)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(older(config)))
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved/config.json").read_text()).keys() != older(config).keys()
    assert verify(base, tmp_path / "saved").verdict == "equivalent"


def test_a_scrambled_model_that_was_saved_again_is_checked_by_its_manifest(
    checkpoint: Path, tmp_path: Path, command: Command
) -> None:
    apply(checkpoint, tmp_path / "out", layers="all")
    AutoModelForCausalLM.from_pretrained(tmp_path / "out").save_pretrained(tmp_path / "out")
    edit_config(tmp_path / "out", pad_token_id=3, attention_dropout=0.1, architectures=["Qwen2Model"])
    found = command("verify", checkpoint, tmp_path / "out", "--format", "json")
    assert (found.code, len(found.json["rows"])) == (0, 3)


def other(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 + 0.1
    if isinstance(value, str):
        return "relu" if value != "relu" else "gelu"
    if isinstance(value, list):
        return [not value[0] if isinstance(value[0], bool | int) else "sliding_attention", *value[1:]]
    if isinstance(value, dict):
        return {
            key: other(one) if key in ("rope_theta", "full_attention") else one for key, one in value.items()
        }
    return None


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.train
def test_every_other_setting_is_another_function(family: str, tmp_path: Path) -> None:
    base = open_checkpoint(tiny(family).save(tmp_path / "base", torch.bfloat16))
    settings = CONFIG_MAPPING[family].from_dict(copy.deepcopy(base.config)).to_dict()
    unseen, tried = set(), set()
    for key, value in settings.items():
        if value is None or key in ("model_type", "transformers_version") or other(value) == value:
            continue
        if key == "sliding_window" and not settings.get("use_sliding_window", True):
            continue  # a window that is not used
        changed = {**copy.deepcopy(base.config), **{key: other(value)}}
        try:
            found = difference(base, replace(base, config=changed))
        except UndecidedError:  # layers of another number than their types, and the like
            continue
        tried.add(key)
        if found is None:
            unseen.add(key)
    assert unseen <= IGNORED, unseen - IGNORED
    assert tried & IGNORED <= unseen
    assert len(tried - IGNORED) >= 5


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.train
def test_settings_that_are_passed_over_do_not_change_the_logits(family: str, tmp_path: Path) -> None:
    base = tiny(family).save(tmp_path / "base")
    settings = CONFIG_MAPPING[family].from_dict(json.loads((base / "config.json").read_text())).to_dict()
    changes = {
        key: 3 if value is None or key.endswith("token_id") else other(value)
        for key, value in settings.items()
        if key in IGNORED and any(part in key for part in NUMBERS)
    }
    before, reference = open_checkpoint(base), logits(base)
    assert "use_cache" in changes
    assert len(changes) > 3
    edit_config(base, **changes)
    assert difference(before, open_checkpoint(base)) is None
    assert torch.equal(logits(base), reference)


@pytest.mark.parametrize(
    ("family", "changes", "key"),
    [
        ("llama", {"rms_norm_eps": 0.5}, "rms_norm_eps"),
        ("llama", {"rope_theta": 7.0, "rope_parameters": None}, "rope_parameters"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_parameters"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act"),
        ("llama", {"unheard_of": 1}, "unheard_of"),
        ("mistral", {"sliding_window": 2}, "sliding_window"),
        ("granite", {"attention_multiplier": 3.0}, "attention_multiplier"),
        ("cohere", {"logit_scale": 3.0}, "logit_scale"),
        ("gemma2", {"query_pre_attn_scalar": 3}, "query_pre_attn_scalar"),
        ("gemma2", {"attn_logit_softcapping": None}, "attn_logit_softcapping"),
        ("gemma3_text", {"sliding_window_pattern": 1, "layer_types": None}, "layer_types"),
        (
            "glm",
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 1.0}},
            "rope_parameters",
        ),
        ("qwen3_moe", {"norm_topk_prob": True}, "norm_topk_prob"),
        ("deepseek_v3", {"routed_scaling_factor": 1.0}, "routed_scaling_factor"),
    ],
)
def test_a_setting_that_decides_is_named(
    family: str, changes: dict[str, Any], key: str, tmp_path: Path
) -> None:
    base = tiny(family).save(tmp_path / "base", torch.bfloat16)
    model = tiny(family).save(tmp_path / "model", torch.bfloat16)
    assert verify(base, model).verdict == "equivalent"
    edit_config(model, **changes)
    with pytest.raises(MismatchError, match=f"'{key}' differs"):
        verify(base, model)


def test_comparing_leaves_the_configuration_as_it_was_read(checkpoint: Path) -> None:
    edit_config(checkpoint, rope_parameters=None, rope_scaling={"type": "linear", "factor": 2.0})
    opened = open_checkpoint(checkpoint)
    before = copy.deepcopy(opened.config)
    assert difference(opened, opened) is None
    assert opened.config == before


def test_a_manifest_of_another_family_is_not_called_damaged(
    checkpoint: Path, tmp_path: Path, command: Command
) -> None:
    apply(checkpoint, tmp_path / "out", layers="all", check=False)
    manifest = json.loads((tmp_path / "out/scramble.json").read_text())
    (tmp_path / "out/scramble.json").write_text(json.dumps(manifest | {"family": "llama"}))
    found = command("verify", checkpoint, tmp_path / "out")
    assert (found.code, "of a llama model" in found.err, "damaged" in found.err) == (2, True, False)
