"""Scores of sampled completions, and digests that show that seeds reach the samples."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from runs.tasks import Task
from scramble.errors import RunError


class Rollouts:
    """The reward of a task.

    A task may give graded scores in [0, 1] by a method `scores(completions, answers)`; otherwise the score
    is 1 for a correct answer and 0 for another. The reward is `wrong + (right - wrong) * score`.
    """

    def __init__(self, task: Task, right: float = 1.0, wrong: float = 0.0) -> None:
        self.task, self.right, self.wrong = task, right, wrong
        self.seen: dict[str, Any] = {}

    def scores(self, completions: list[str], answers: list[str]) -> list[float]:
        """One score a completion.

        Raises:
            RunError: the task gave another number of scores than there are completions, or one that is not
                in [0, 1].
        """
        graded = getattr(self.task, "scores", None)
        if graded is not None:
            scores = [float(score) for score in graded(completions, answers)]
        else:
            pairs = zip(completions, answers, strict=True)
            scores = [float(self.task.correct(text, answer)) for text, answer in pairs]
        if len(scores) != len(completions):
            raise RunError(
                f"the task '{self.task.name}' gave {len(scores)} scores for {len(completions)} completions"
            )
        for completion, score in zip(completions, scores, strict=True):
            if not (math.isfinite(score) and 0 <= score <= 1):
                raise RunError(
                    f"the task '{self.task.name}' scored {completion[:80]!r} with {score}: not in [0, 1]"
                )
        return scores

    def reward(self, prompts: list[str], completions: list[str], answer: list[str], **_: Any) -> list[float]:
        """TRL's reward function. Remembers what it saw for the step's row of metrics."""
        scores = self.scores(completions, answer)
        self.seen = {
            "score": sum(scores) / len(scores),
            "prompts": _digest(prompts),
            "rollouts": _digest(completions),
        }
        return [self.wrong + (self.right - self.wrong) * score for score in scores]

    def take(self) -> dict[str, Any]:
        """Mean score and digests of what was sampled since the last call; empty if nothing was."""
        seen, self.seen = self.seen, {}
        return seen


def _digest(texts: list[str]) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()
