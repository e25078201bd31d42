"""Rows of a data set: JSON lines, Parquet, a folder that `datasets` wrote, or an id on the hub."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, NonNegativeInt, PositiveInt

from runs.tasks.task import Example, VerifiableTask
from scramble.errors import MissingDependencyError, RecipeError, ScrambleError

Row = dict[str, Any]


def read_rows(
    data: str, columns: Sequence[str], split: str = "train", subset: str | None = None
) -> list[Row]:
    """All rows, each with the columns that are asked for.

    Raises:
        RecipeError: there is no such data, it is empty, a line cannot be read, or a column is missing.
        MissingDependencyError: `datasets` is needed and not installed.
    """
    path = Path(data)
    if path.suffix in (".jsonl", ".json", ".parquet") and not path.is_file():
        raise RecipeError(f"task: {data}: there is no such file")
    if path.suffix in (".jsonl", ".json"):
        rows = _json_lines(path)
    elif path.suffix == ".parquet":
        rows = _parquet(path)
    else:
        rows = _data_set(data, split, subset)
    if not rows:
        raise RecipeError(f"task: {data}: no rows")
    for number, row in enumerate(rows, 1):
        for column in columns:
            if column not in row:
                raise RecipeError(
                    f"task: {data}: row {number} has no column '{column}'; it has {', '.join(sorted(row))}"
                )
            if row[column] is None or row[column] == "":
                raise RecipeError(f"task: {data}: row {number}: column '{column}' is empty")
    return rows


def _json_lines(path: Path) -> list[Row]:
    rows = []
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise RecipeError(f"task: {path}: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise RecipeError(f"task: {path}: line {number} is not JSON ({error})") from None
        if not isinstance(row, dict):
            raise RecipeError(f"task: {path}: line {number} is not an object of columns and values")
        rows.append(row)
    return rows


def _parquet(path: Path) -> list[Row]:
    try:
        import pandas

        table = pandas.read_parquet(path)
    except ImportError:
        raise MissingDependencyError(
            f"{path}: Parquet needs pyarrow: pip install 'scramble[parquet]'"
        ) from None
    except (OSError, ValueError) as error:
        raise RecipeError(f"task: {path}: not Parquet: {' '.join(str(error).split())}") from None
    return [
        {str(key): value.tolist() if hasattr(value, "tolist") else value for key, value in row.items()}
        for row in table.to_dict("records")
    ]


def _data_set(data: str, split: str, subset: str | None) -> list[Row]:
    try:
        import datasets
    except ImportError:
        raise MissingDependencyError("datasets is not installed: pip install 'scramble[runs]'") from None
    datasets.disable_progress_bars()
    try:
        if (Path(data) / "state.json").exists() or (Path(data) / "dataset_dict.json").exists():
            found = datasets.load_from_disk(data)
            found = found[split] if isinstance(found, dict) else found
        else:
            found = datasets.load_dataset(data, subset, split=split)
        return [dict(row) for row in found]
    except ScrambleError:
        raise
    except Exception as error:  # the library and the hub raise many kinds
        raise RecipeError(
            f"task: {data}: {' '.join(f'{type(error).__name__}: {error}'.split())[:300]}"
        ) from None


class FileTask(VerifiableTask):
    """Prompts and answers from a data set.

    Attributes:
        data: a .jsonl or .parquet file, a folder that `datasets` can load, or a data set's id on the hub.
        split, subset: of a data set; files have none.
        prompt, answer: names of the columns.
        template: the prompt, with `{prompt}` for the column's text.
        size: prompts of training, the first ones; all by default.
        held_out_rows: prompts that are drawn by `seed` and never trained on, for evaluation.
        held_out_data: a second data set for evaluation, in place of `held_out_rows`.
    """

    paths: ClassVar[tuple[str, ...]] = ("data",)

    data: str
    split: str = "train"
    subset: str | None = None
    prompt: str = "prompt"
    answer: str = "answer"
    template: str = "{prompt}"
    size: PositiveInt | None = None
    held_out_rows: NonNegativeInt = 0
    held_out_data: str | None = Field(default=None)

    def example(self, row: Row, where: str) -> Example:
        """A row's prompt and answer.

        Args:
            where: the row's name in messages.
        """
        return Example(self.template.replace("{prompt}", str(row[self.prompt])), str(row[self.answer]))

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.prompt, self.answer)

    def examples(self) -> list[Example]:
        """All prompts of training.

        Raises:
            RecipeError: see `read_rows`; or nothing is left to train on.
        """
        examples, held_out = self._read(self.data), self._drawn
        if self.held_out_rows:
            names = held_out(examples)
            examples = [example for example in examples if example.prompt not in names]
        if not examples:
            raise RecipeError(f"task: {self.data}: held_out_rows leaves no rows to train on")
        return examples[: self.size]

    def held_out(self, size: int) -> list[Example]:
        if self.held_out_data:
            seen = {example.prompt for example in self.examples()}
            pool = [one for one in self._read(self.held_out_data) if one.prompt not in seen]
        elif self.held_out_rows:
            examples = self._read(self.data)
            names = self._drawn(examples)
            pool = [example for example in examples if example.prompt in names]
        else:
            raise RecipeError(
                "evaluation: held-out prompts are needed: task.held_out_rows or task.held_out_data"
            )
        different = list({example.prompt: example for example in pool}.values())
        if len(different) < size:
            raise RecipeError(
                f"evaluation.size: {size} prompts outside training were asked for, there are {len(different)}"
            )
        return random.Random(self.seed).sample(different, size)

    def _read(self, data: str) -> list[Example]:
        rows = read_rows(data, self.columns, self.split, self.subset)
        return [self.example(row, f"{data}: row {number}") for number, row in enumerate(rows, 1)]

    def _drawn(self, examples: list[Example]) -> set[str]:
        """Prompts that are held out: a draw from the different prompts, so that no copy is trained on."""
        prompts = sorted({example.prompt for example in examples})
        if self.held_out_rows >= len(prompts):
            raise RecipeError(
                f"task.held_out_rows: {self.held_out_rows} of {len(prompts)} different prompts leave none "
                "to train on"
            )
        return set(random.Random(self.seed).sample(prompts, self.held_out_rows))
