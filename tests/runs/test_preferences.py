"""Pairs of a preferred and another completion."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from runs.preferences import Preference, preferences
from runs.recipe import Recipe
from runs.tasks import Example
from runs.tasks.few_shot_sums import FewShotSums
from scramble.errors import RecipeError


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


def test_a_task_with_pairs_of_its_own_gives_them() -> None:
    class Paired(FewShotSums):
        name: Literal["few-shot-sums"] = "few-shot-sums"

        def preferences(self) -> Any:
            return [Preference("a", "b", "c")]

    (pair,) = preferences(Paired(), [Example("x", "y")])
    assert (pair.prompt, pair.chosen, pair.rejected) == ("a", "b", "c")


def test_pairs_need_a_wrong_answer() -> None:
    with pytest.raises(RecipeError, match="no wrong answer"):
        preferences(FewShotSums(name="few-shot-sums"), [Example("1+1=", "2"), Example("0+2=", "2")])
