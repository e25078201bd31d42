"""What stands in a row under a column, read as the type that it has; other types are refused by place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from scramble.errors import RecipeError
from scramble.runs.tasks.data.answers import Answer
from scramble.runs.tasks.data.example import Prompt, Turn

_ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True)
class Cell:
    """A value and where it stands.

    Attributes:
        where: the value's name in messages.
    """

    value: Any
    where: str

    def text(self) -> str:
        """A text that is not empty.

        Raises:
            RecipeError: something else.
        """
        if not isinstance(self.value, str):
            raise RecipeError(f"{self.where} holds no text but {_kind(self.value)}")
        if not self.value.strip():
            raise RecipeError(f"{self.where} is empty")
        return self.value

    def lines(self) -> str:
        """A text, or a list of texts as its lines.

        Raises:
            RecipeError: something else.
        """
        if not isinstance(self.value, list):
            return self.text()
        return "\n".join(one.text() for one in self._items())

    def answers(self) -> list[Answer]:
        """An answer, text or number, or a list of answers any of which is right.

        The `reward_model` of verl's records is its `ground_truth`.

        Raises:
            RecipeError: something else; a number that is not finite; a reward that a model gives.
        """
        if isinstance(self.value, dict) and "ground_truth" in self.value:
            style = self.value.get("style", "rule")
            if not isinstance(style, str) or not style.startswith("rule"):
                raise RecipeError(f"{self.where}: rewards of style {style!r} need a model; known is 'rule'")
            return self._inside("ground_truth").answers()
        if isinstance(self.value, list):
            return [one._answer() for one in self._items()]
        return [self._answer()]

    def prompt(self) -> Prompt:
        """A text, or the messages of a chat, the last of which is no answer of the model.

        Raises:
            RecipeError: something else.
        """
        if not isinstance(self.value, list):
            return self.text()
        turns = tuple(one._turn() for one in self._items())
        if turns[-1].role == "assistant":
            raise RecipeError(f"{self.where}: the last message is the assistant's; nothing is left to answer")
        return turns

    def completion(self, prompt: Prompt) -> str:
        """A text, or for a chat the one message of the assistant.

        Raises:
            RecipeError: something else.
        """
        if not isinstance(self.value, list) or isinstance(prompt, str):
            return self.text()
        turns = [one._turn() for one in self._items()]
        if [turn.role for turn in turns] != ["assistant"]:
            raise RecipeError(
                f"{self.where}: one message of the assistant is needed after the prompt's messages"
            )
        return turns[0].content

    def _answer(self) -> Answer:
        value = self.value
        if isinstance(value, float | Decimal) and not math.isfinite(value):
            raise RecipeError(f"{self.where} holds a number that is not finite: {value}")
        if isinstance(value, float):
            return Decimal(repr(value))
        if isinstance(value, int | Decimal) and not isinstance(value, bool):
            return value
        if not isinstance(value, str):
            raise RecipeError(f"{self.where} holds neither text nor number but {_kind(value)}")
        return self.text()

    def _turn(self) -> Turn:
        if not isinstance(self.value, dict):
            raise RecipeError(f"{self.where} holds no message but {_kind(self.value)}")
        known = {key: value for key, value in self.value.items() if value is not None}
        if more := known.keys() - {"role", "content"}:
            raise RecipeError(
                f"{self.where}: a message has a role and a content, this one has {min(more)!r} too"
            )
        if known.get("role") not in _ROLES:
            raise RecipeError(f"{self.where}: the role {known.get('role')!r} is none of {', '.join(_ROLES)}")
        return Turn(known["role"], self._inside("content").text())

    def _inside(self, key: str) -> Cell:
        return Cell(self.value.get(key), f"{self.where}: {key}")

    def _items(self) -> list[Cell]:
        if not self.value:
            raise RecipeError(f"{self.where} is empty")
        return [Cell(one, f"{self.where}: item {at}") for at, one in enumerate(self.value, 1)]


def cell(row: Mapping[str, Any], column: str, where: str) -> Cell:
    """The value of a column.

    Args:
        where: the row's name in messages.
    """
    return Cell(row[column], f"task: {where}: column '{column}'")


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
