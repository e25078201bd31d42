"""Pairs of a preferred and another completion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from scramble.errors import RecipeError
from scramble.runs.algorithms.preferences import preferences
from scramble.runs.engine.run import run
from scramble.runs.recipe.recipe import Recipe
from scramble.runs.tasks import Example
from scramble.runs.tasks.few_shot_sums import FewShotSums
from tests.models import weights


def test_derived_pairs_are_right_and_wrong_and_repeat(content: dict[str, Any]) -> None:
    task = Recipe.model_validate(content).task
    examples = task.examples()
    pairs = preferences(task, examples, separator=" ")
    assert pairs == preferences(task, examples, separator=" ")
    assert len({pair.rejected for pair in pairs}) == 3
    for example, pair in zip(examples, pairs, strict=True):
        assert (pair.prompt, pair.chosen) == (example.prompt, f" {example.answer}")
        assert not task.correct(pair.rejected, example.answer)
    other = task.model_copy(update={"seed": 1})
    assert [pair.rejected for pair in preferences(other, examples)] != [
        pair.rejected.strip() for pair in pairs
    ]


@pytest.mark.parametrize("name", ["dpo", "simpo", "sft"])
@pytest.mark.train
def test_given_pairs_are_trained_on(name: str, content: dict[str, Any], tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}+1=", "chosen": str(n + 1), "rejected": str(n)} for n in range(8)]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = {"task": {"name": "preference", "data": str(data)}, "algorithm": {"name": name, "batch": 8}}
    recipe = Recipe.model_validate(content | changes)
    assert recipe.algorithm.rows(recipe.task, recipe.task.checked_examples()) == [
        {"prompt": row["prompt"], "completion": row["chosen"]} if name == "sft" else row for row in rows
    ]
    first, last = run(recipe, tmp_path / "out", threads=1).metrics
    assert last["loss"] < first["loss"]


@pytest.mark.train
def test_what_does_not_sample_is_evaluated_too(content: dict[str, Any], tmp_path: Path) -> None:
    asked = {"size": 4, "samples": 2, "k": [1], "max_new_tokens": 4}
    sft = content | {"algorithm": {"name": "sft", "batch": 8}}
    plain, judged = (
        run(Recipe.model_validate(one), tmp_path / out, threads=1)
        for one, out in ((sft, "plain"), (sft | {"evaluation": asked}, "judged"))
    )
    assert [row["step"] for row in judged.record.content()["evaluation"]["rows"]] == [0, 2]
    old, new = (weights(folder.checkpoint(2, fp32=True)) for folder in (plain, judged))
    assert all(torch.equal(old[key], new[key]) for key in old)


def test_pairs_need_a_wrong_answer() -> None:
    with pytest.raises(RecipeError, match="no wrong answer"):
        preferences(FewShotSums(name="few-shot-sums"), [Example("1+1=", "2"), Example("0+2=", "2")])
