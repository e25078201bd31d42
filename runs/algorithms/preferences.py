"""Pairs of completions, one preferred."""

from __future__ import annotations

import random

from scramble.errors import RecipeError
from scramble.runs.tasks import Example, Preference, PreferencePairs, Task, VerifiableTask


def preferences(task: Task, examples: list[Example], separator: str = "") -> list[Preference]:
    """The pairs of task `preference`, or pairs made from a verifiable task.

    The pair of an example: `chosen` is its answer, `rejected` the answer of another example that the task's
    check refuses here, drawn by a generator that is keyed by the task's seed and the example's place.

    Args:
        separator: text between a prompt and an answer in pairs that are made here.

    Raises:
        RecipeError: no example has an answer that is wrong for this one.
    """
    if isinstance(task, PreferencePairs):
        return task.preferences()
    answers = sorted({example.text for example in examples})
    return [
        Preference(
            example.prompt,
            separator + example.text,
            separator + _wrong(task, example, answers, random.Random(f"{task.seed}/{place}")),
        )
        for place, example in enumerate(examples)
    ]


def _wrong(task: VerifiableTask, example: Example, answers: list[str], rng: random.Random) -> str:
    for answer in rng.sample(answers, len(answers)):
        if not task.correct(answer, example.answer):
            return answer
    raise RecipeError(
        f"task: '{task.name}' has no wrong answer to {example.prompt!r}: every example's answer is right"
    )
