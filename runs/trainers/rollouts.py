"""Scores of sampled completions, and digests that show that seeds reach the samples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from scramble.runs.tasks import Message, Task

Completions = Sequence[str | list[Message]]  # texts, or chats where there are tools


class Rollouts:
    """The reward of a task: `wrong + (right - wrong) * score`."""

    def __init__(self, task: Task, right: float = 1.0, wrong: float = 0.0) -> None:
        self.task, self.right, self.wrong = task, right, wrong
        self.seen: dict[str, Any] = {}

    def scores(self, completions: Completions, answers: list[str]) -> list[float]:
        """One score a completion, see `BaseTask.scores`."""
        return self.task.scores(completions, answers)

    def reward(
        self, prompts: Completions, completions: Completions, answer: list[str], **_: Any
    ) -> list[float]:
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


def _digest(texts: Completions) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()
