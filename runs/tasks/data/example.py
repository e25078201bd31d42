"""A prompt, as text or as a chat, and what the check of a task compares with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from scramble.errors import RecipeError

Message = dict[str, Any]  # as transformers and TRL have it: at least a role and a content


class Turn(NamedTuple):
    """A message of a chat that is a prompt."""

    role: str
    content: str


Prompt = str | tuple[Turn, ...]


@dataclass(frozen=True)
class Example:
    """A prompt and what the check compares with.

    Attributes:
        answer: as the task writes it down.
        imitated: a right answer in words, if that is not `answer`; empty where there is none.
    """

    prompt: Prompt
    answer: str
    imitated: str | None = None

    @property
    def text(self) -> str:
        """A right answer in words, for training that imitates.

        Raises:
            RecipeError: there is none.
        """
        if self.imitated == "":
            raise RecipeError(
                f"task: there is a check and no answer to imitate for the prompt {self.prompt!r}"
            )
        return self.answer if self.imitated is None else self.imitated


def shown(prompt: Prompt) -> str | list[Message]:
    """A prompt as trainers and chat templates take it: a text, or messages."""
    return prompt if isinstance(prompt, str) else [turn._asdict() for turn in prompt]


def said(prompt: Prompt, text: str) -> str | list[Message]:
    """A completion of this prompt: a text, or the model's message."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
