"""Pairs of answers, one preferred: for dpo, simpo, and sft on the preferred ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import PositiveInt

from scramble.errors import RecipeError, RunError
from scramble.runs.tasks.data.cells import cell
from scramble.runs.tasks.data.example import Example, Message, Prompt
from scramble.runs.tasks.data.rows import read_rows
from scramble.runs.tasks.data.task import BaseTask


@dataclass(frozen=True)
class Preference:
    """A prompt, the answer that is preferred, and the other."""

    prompt: Prompt
    chosen: str
    rejected: str


class PreferencePairs(BaseTask):
    """A data set of pairs.

    Attributes:
        data: a .jsonl, .json or .parquet file, a folder that `datasets` can load, or a data set's id on the
            hub.
        prompt, chosen, rejected: names of the columns: texts; or a chat, and a message of the assistant each.
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
            RecipeError: see `read_rows`; or a column holds neither text nor a chat, or both answers are the
                same.
        """
        names = (self.prompt, self.chosen, self.rejected)
        found = []
        rows = read_rows(self.data, names, self.split, self.subset)[: self.size]
        for number, row in enumerate(rows, 1):
            where = f"{self.data}: row {number}"
            prompt = cell(row, self.prompt, where).prompt()
            chosen, rejected = (
                cell(row, name, where).completion(prompt) for name in (self.chosen, self.rejected)
            )
            if chosen == rejected:
                raise RecipeError(f"task: {where}: the chosen and the rejected answer are the same")
            found.append(Preference(prompt, chosen, rejected))
        return found

    def checked_examples(self) -> list[Example]:
        """Each prompt with the answer that is preferred, for supervised training."""
        return [Example(pair.prompt, pair.chosen) for pair in self.preferences()]

    def scores(self, completions: Sequence[str | list[Message]], answers: Sequence[str]) -> list[float]:
        raise RunError("task preference: nothing says whether a new completion is right")
