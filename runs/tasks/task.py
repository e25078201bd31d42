"""What a task is."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, PositiveInt, field_validator

from scramble.errors import RecipeError


@dataclass(frozen=True)
class Example:
    """A prompt and the answer that the check compares with."""

    prompt: str
    answer: str


class VerifiableTask(BaseModel, ABC):
    """Prompts with answers.

    Attributes:
        size: how many prompts there are.
        seed: of the prompts; the run's own seed decides their order.
        answer_pattern: regular expression, matched at the start of a completion; its first group is the
            answer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: PositiveInt = 2048
    seed: int = 0
    answer_pattern: str

    @field_validator("answer_pattern")
    @classmethod
    def _one_group(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"not a regular expression ({error})") from None
        if groups < 1:
            raise ValueError("needs a group that captures the answer")
        return pattern

    @abstractmethod
    def examples(self) -> list[Example]:
        """All prompts, the same for the same settings."""

    def checked_examples(self) -> list[Example]:
        """All prompts, after a look whether their own answers would be accepted.

        Raises:
            RecipeError: `answer_pattern` can never extract an answer, so that no reward could be right.
        """
        examples = self.examples()
        for example in examples:
            if not self.correct(f" {example.answer}", example.answer):
                raise RecipeError(
                    f"task: answer_pattern {self.answer_pattern!r} does not extract the answer "
                    f"{example.answer!r} from a completion that is just this answer"
                )
        return examples

    def correct(self, completion: str, answer: str) -> bool:
        """Exact match of what `answer_pattern` extracts; no partial credit."""
        found = re.match(self.answer_pattern, completion)
        return found is not None and (found.group(1) or "").strip() == answer.strip()
