"""Every setting of sampling is the recipe's or neutral, whatever the start's generation_config.json says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from scramble.runs.engine.run import run
from scramble.runs.recipe.recipe import Recipe
from tests.models import edit_config
from tests.runs.conftest import ON_POLICY

pytestmark = pytest.mark.train

# One by one they change what is sampled, or how long it is, or stop it with an error.
SETTINGS: dict[str, dict[str, Any]] = {
    "penalties": {
        **{"repetition_penalty": 1.5, "encoder_repetition_penalty": 1.3, "length_penalty": 0.2},
        **{"no_repeat_ngram_size": 1, "exponential_decay_length_penalty": [1, 3.0]},
    },
    "truncation": {
        **{"do_sample": True, "temperature": 0.2, "top_k": 2, "top_p": 0.5, "min_p": 0.3, "typical_p": 0.3},
        **{"top_h": 0.2, "epsilon_cutoff": 0.1, "eta_cutoff": 0.1},
    },
    "tokens": {
        **{"suppress_tokens": [2, 3, 4], "begin_suppress_tokens": [5], "bad_words_ids": [[6], [7]]},
        **{"forced_bos_token_id": 8, "forced_eos_token_id": 9, "sequence_bias": [[[3], 9.0]]},
    },
    "lengths": {"min_new_tokens": 5, "min_length": 40, "max_length": 12, "max_new_tokens": 1},
    "guidance": {"guidance_scale": 3.0, "watermarking_config": {"greenlist_ratio": 0.1, "bias": 9.0}},
    "ends": {"stop_strings": ["3"], "max_time": 1e-9},
    "search": {"num_beams": 3, "early_stopping": True},
    "lookup": {"prompt_lookup_num_tokens": 2},
}
EVALUATED = {"evaluation": {"size": 6, "samples": 4, "max_new_tokens": 5}, "kl": {"every": 1, "prompts": 2}}


def with_settings(start: Path, **settings: Any) -> Path:
    """The same start whose generation_config.json has these, without transformers' own checks."""
    folder = start.with_name("set")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(start, folder)
    path = folder / "generation_config.json"
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | settings))
    return folder


def sampled(content: dict[str, Any], start: Path, out: Path) -> dict[str, Any]:
    """What a run of one start sampled, whatever for."""
    folder = run(Recipe.model_validate(content | {"model": str(start)}), out, threads=1)
    names = ("prompts", "rollouts", "reward", "loss", "kl_to_start", "completions/mean_length")
    assert "kl_to_start" in folder.metrics[0]
    return {
        "metrics": [{name: row.get(name) for name in names} for row in folder.metrics],
        "evaluation": folder.record.content()["evaluation"],
        "sampling": folder.record.content()["sampling"],
    }


def test_no_setting_of_the_start_reaches_what_is_sampled(
    start: Path, content: dict[str, Any], tmp_path: Path
) -> None:
    content |= EVALUATED
    plain = sampled(content, start, tmp_path / "plain")
    for name, settings in SETTINGS.items():
        assert sampled(content, with_settings(start, **settings), tmp_path / name) == plain, name


@pytest.mark.parametrize("algorithm", ["rloo", "rejection_sft", "dapo"])
def test_no_setting_reaches_any_algorithm(
    algorithm: str, start: Path, content: dict[str, Any], tmp_path: Path
) -> None:
    content |= EVALUATED | {"algorithm": ON_POLICY[algorithm]}
    plain = sampled(content, start, tmp_path / "plain")
    all_of_them = {key: value for one in SETTINGS.values() for key, value in one.items()}
    assert sampled(content, with_settings(start, **all_of_them), tmp_path / "set") == plain


def test_settings_that_a_config_of_old_holds_do_not_either(
    start: Path, content: dict[str, Any], tmp_path: Path
) -> None:
    content |= EVALUATED
    (start / "generation_config.json").unlink(missing_ok=True)
    plain = sampled(content, start, tmp_path / "plain")
    edit_config(start, repetition_penalty=1.5, top_k=2, min_length=40)
    assert sampled(content, start, tmp_path / "set") == plain


def test_an_evaluation_after_the_end_is_the_one_during_training(
    start: Path, content: dict[str, Any], tmp_path: Path
) -> None:
    nasty = with_settings(start, repetition_penalty=1.5, suppress_tokens=[2, 3], min_new_tokens=5)
    content |= {"model": str(nasty)}
    during = run(Recipe.model_validate(content | EVALUATED), tmp_path / "during", threads=1)
    content |= {"kl": EVALUATED["kl"]}
    run(Recipe.model_validate(content), tmp_path / "later", threads=1)
    later = run(Recipe.model_validate(content | EVALUATED), tmp_path / "later", threads=1)
    assert later.record.content()["evaluation"] == during.record.content()["evaluation"]
    assert later.record.content()["sampling"] == during.record.content()["sampling"]


def test_every_setting_is_recorded(start: Path, content: dict[str, Any], tmp_path: Path) -> None:
    content |= EVALUATED | {"algorithm": content["algorithm"] | {"temperature": 0.7}}
    content["evaluation"] |= {"temperature": 0.5}
    found = sampled(content, with_settings(start, repetition_penalty=1.5), tmp_path / "out")["sampling"]
    assert set(found) == {"training", "evaluation", "kl"}
    for name, temperature, most in (("training", 0.7, 6), ("evaluation", 0.5, 5), ("kl", 1.0, 32)):
        one = found[name]
        assert (one["do_sample"], one["temperature"], one["max_new_tokens"]) == (True, temperature, most)
        neutral = GenerationConfig._get_default_generation_params() | {"top_k": 0, "min_p": None}
        for key in ("top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "no_repeat_ngram_size"):
            assert one.get(key) == neutral[key], (name, key)
        for key in ("suppress_tokens", "forced_eos_token_id", "min_new_tokens", "bad_words_ids"):
            assert key not in one
        assert one["eos_token_id"] == [1, 2]


def test_ends_have_the_starts_own_generation_config(
    start: Path, content: dict[str, Any], tmp_path: Path
) -> None:
    nasty = with_settings(start, repetition_penalty=1.5, top_k=5, do_sample=True)
    folder = run(Recipe.model_validate(content | {"model": str(nasty)}), tmp_path / "out", threads=1)
    for fp32 in (False, True):
        end = folder.checkpoint(2, fp32=fp32)
        assert (end / "generation_config.json").read_bytes() == (
            nasty / "generation_config.json"
        ).read_bytes()
    (nasty / "generation_config.json").unlink()
    folder = run(Recipe.model_validate(content | {"model": str(nasty)}), tmp_path / "out", threads=1)
    assert not (folder.checkpoint(2) / "generation_config.json").exists()
