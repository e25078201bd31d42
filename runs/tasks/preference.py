"""Pairs of answers, one preferred: for dpo, simpo, and sft on the preferred ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import PositiveInt

from runs.tasks.rows import read_rows
from runs.tasks.task import BaseTask, Example, Message
from scramble.errors import RecipeError, RunError


@dataclass(frozen=True)
class Preference:
    """A prompt, the answer that is preferred, and the other."""

    prompt: str
    chosen: str
    rejected: str


class PreferencePairs(BaseTask):
    """A data set of pairs.

    Attributes:
        data: a .jsonl or .parquet file, a folder that `datasets` can load, or a data set's id on the hub.
        prompt, chosen, rejected: names of the columns; texts.
        size: the first pairs; all by default.
    """

    paths: ClassVar[tuple[str, ...]] = ("data",)

    name: Literal["preference"]
    data: str
    split: str = "train"
    subset: str | None = None
    prompt: str = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"
    size: PositiveInt | None = None

    def preferences(self) -> list[Preference]:
        """All pairs.

        Raises:
            RecipeError: see `read_rows`; or a column is not text, or both answers are the same.
        """
        names = (self.prompt, self.chosen, self.rejected)
        found = []
        rows = read_rows(self.data, names, self.split, self.subset)[: self.size]
        for number, row in enumerate(rows, 1):
            for name in names:
                if not isinstance(row[name], str):
                    raise RecipeError(
                        f"task: {self.data}: row {number}: column '{name}' holds no text but a "
                        f"{type(row[name]).__name__}"
                    )
            if row[self.chosen] == row[self.rejected]:
                raise RecipeError(
                    f"task: {self.data}: row {number}: the chosen and the rejected answer are the same"
                )
            found.append(Preference(*(row[name] for name in names)))
        return found

    def checked_examples(self) -> list[Example]:
        """Each prompt with the answer that is preferred, for supervised training."""
        return [Example(pair.prompt, pair.chosen) for pair in self.preferences()]

    def scores(self, completions: Sequence[str | list[Message]], answers: Sequence[str]) -> list[float]:
        raise RunError("task preference: nothing says whether a new completion is right")
