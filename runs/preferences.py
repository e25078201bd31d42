"""Pairs of completions, one preferred."""

from __future__ import annotations

import random
from dataclasses import dataclass

from runs.tasks import Example, Task
from scramble.errors import RecipeError


@dataclass(frozen=True)
class Preference:
    """A prompt, the completion that is preferred, and the other one."""

    prompt: str
    chosen: str
    rejected: str


def preferences(task: Task, examples: list[Example], separator: str = "") -> list[Preference]:
    """A task's own pairs (its method `preferences()`), or pairs made from a verifiable task.

    The pair of an example: `chosen` is its answer, `rejected` the answer of another example that the task's
    check refuses here, drawn by a generator that is keyed by the task's seed and the example's place.

    Args:
        separator: text between a prompt and an answer in pairs that are made here.

    Raises:
        RecipeError: no example has an answer that is wrong for this one.
    """
    own = getattr(task, "preferences", None)
    if own is not None:
        return [Preference(pair.prompt, pair.chosen, pair.rejected) for pair in own()]
    answers = sorted({example.answer for example in examples})
    return [
        Preference(
            example.prompt,
            separator + example.answer,
            separator + _wrong(task, example, answers, random.Random(f"{task.seed}/{place}")),
        )
        for place, example in enumerate(examples)
    ]


def _wrong(task: Task, example: Example, answers: list[str], rng: random.Random) -> str:
    for answer in rng.sample(answers, len(answers)):
        if not task.correct(answer, example.answer):
            return answer
    raise RecipeError(
        f"task: '{task.name}' has no wrong answer to {example.prompt!r}: every example's answer is right"
    )
