"""Evaluation of a tiny model: it changes nothing, it is the same each time, and it counts what it samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from scramble.errors import RunError
from scramble.runs.engine.evaluate import count_right
from scramble.runs.engine.run import run
from scramble.runs.recipe.recipe import Recipe
from scramble.runs.tasks import Example
from tests.conftest import Command
from tests.models import weights

pytestmark = pytest.mark.train
EVALUATION = {"size": 6, "samples": 4, "k": [1, 4], "every": 1, "batch": 7}


def test_evaluation_does_not_touch_training(content: dict[str, Any], tmp_path: Path) -> None:
    plain = run(Recipe.model_validate(content), tmp_path / "plain", threads=1)
    judged = run(Recipe.model_validate(content | {"evaluation": EVALUATION}), tmp_path / "judged", threads=1)
    assert plain.path.name == judged.path.name
    old, new = (weights(folder.checkpoint(2, fp32=True)) for folder in (plain, judged))
    assert all(torch.equal(old[name], new[name]) for name in old)
    for what in ("reward", "rollouts"):
        assert [row[what] for row in plain.metrics] == [row[what] for row in judged.metrics]
    assert "evaluation" not in plain.record.content()
    found = judged.record.content()["evaluation"]
    assert [(row["step"], row["k"]) for row in found["rows"]] == [(s, k) for s in (0, 1, 2) for k in (1, 4)]
    assert [row["k"] for row in found["gain"]] == [1, 4]
    assert judged.record.content()["held_out"]["examples"] == 6
    assert judged.record.content()["seeds"]["evaluation"] == 1


def test_a_finished_run_is_evaluated_without_training_again(content: dict[str, Any], tmp_path: Path) -> None:
    """The same figures as during training: the checkpoints are the weights."""
    asked = EVALUATION | {"every": None}
    during = run(Recipe.model_validate(content | {"evaluation": asked}), tmp_path / "during", threads=1)
    plain = run(Recipe.model_validate(content), tmp_path / "later", threads=1)
    end = plain.record.content()["end"]
    later = run(Recipe.model_validate(content | {"evaluation": asked}), tmp_path / "later", threads=1)
    assert later.path == plain.path
    assert later.record.content()["end"] == end
    assert later.record.content()["evaluation"] == during.record.content()["evaluation"]
    with pytest.raises(RunError, match=r"this run is finished, evaluation\.every comes too late"):
        run(Recipe.model_validate(content | {"evaluation": EVALUATION}), tmp_path / "later", threads=1)


def test_right_samples_are_counted_example_by_example(
    content: dict[str, Any], start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each prompt with its own answer, whatever the batches are, and greedy ones like generate's own."""
    recipe = Recipe.model_validate(
        content | {"evaluation": {"size": 3, "samples": 1, "k": [1], "temperature": 0, "batch": 2}}
    )
    tokenizer = AutoTokenizer.from_pretrained(start)
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    prompts = ["1+1=", "0+1=2\n0+0=", "1+0="]
    said = []
    for prompt in prompts:
        tokens = tokenizer(prompt, return_tensors="pt")["input_ids"]
        out = model.generate(tokens, max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=[1, 2])
        said.append(tokenizer.decode(out[0, tokens.shape[1] :], skip_special_tokens=True))
    seen: list[tuple[str, str]] = []

    def scores(self: Any, completions: list[str], answers: list[str]) -> list[float]:
        seen.extend(zip(completions, answers, strict=True))
        return [float(answer == "b") for answer in answers]

    monkeypatch.setattr(type(recipe.task), "scores", scores)
    examples = [Example(prompt, answer) for prompt, answer in zip(prompts, "abc", strict=True)]
    before = torch.random.get_rng_state()
    model.train()
    assert count_right(model, tokenizer, recipe, examples) == [0, 1, 0]
    assert seen == list(zip(said, "abc", strict=True))
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_command_prints_pass_at_k(content: dict[str, Any], tmp_path: Path, command: Command) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content | {"evaluation": EVALUATION}))
    found = command("run", path, "--out", tmp_path / "out", "--threads", 1, "--format", "json", "--quiet")
    (row,) = found.json["rows"]
    evaluation = json.loads((Path(row["run"]) / "run.json").read_text())["evaluation"]
    assert row["pass@4_before"] == next(
        r["pass"] for r in evaluation["rows"] if (r["step"], r["k"]) == (0, 4)
    )
    assert row["pass@1_after"] == next(r["pass"] for r in evaluation["rows"] if (r["step"], r["k"]) == (2, 1))
