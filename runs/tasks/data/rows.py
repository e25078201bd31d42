"""Rows of a data set: JSON, Parquet, a folder that `datasets` wrote, or an id on the hub; types stay."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, NonNegativeInt, PositiveInt

from scramble.errors import MissingDependencyError, RecipeError, ScrambleError, install, one_line
from scramble.runs.tasks.data.answers import Answer, in_words, write
from scramble.runs.tasks.data.cells import cell
from scramble.runs.tasks.data.example import Example, Prompt
from scramble.runs.tasks.data.task import VerifiableTask

Row = dict[str, Any]
_RECORDS = {"answer": ("reward_model", "solution")}


def read_rows(
    data: str, columns: Sequence[str], split: str = "train", subset: str | None = None
) -> list[Row]:
    """All rows, each with the columns that are asked for, and values of the types that they have there.

    Where `answer` is asked for and not there, it is `reward_model` in verl's records and `solution` in TRL's.

    Raises:
        RecipeError: there is no such data, it is empty, a line cannot be read, or a column is missing.
        MissingDependencyError: `datasets` is needed and not installed.
    """
    path = Path(data)
    if path.suffix in (".jsonl", ".json", ".parquet") and not path.is_file():
        raise RecipeError(f"task: {data}: there is no such file")
    if path.suffix in (".jsonl", ".json"):
        rows = _json(path)
    elif path.suffix == ".parquet":
        rows = _parquet(path)
    else:
        rows = _data_set(data, split, subset)
    if not rows:
        raise RecipeError(f"task: {data}: no rows")
    for number, row in enumerate(rows, 1):
        for column in columns:
            for other in _RECORDS.get(column, ()):
                if column not in row and other in row:
                    row[column] = row[other]
            if column not in row:
                raise RecipeError(
                    f"task: {data}: row {number} has no column '{column}'; it has {', '.join(sorted(row))}"
                )
            if row[column] is None or row[column] == "":
                raise RecipeError(f"task: {data}: row {number}: column '{column}' is empty")
    return rows


def _json(path: Path) -> list[Row]:
    """JSON lines; in a `.json` also one array of objects."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"task: {path}: {error.strerror}") from None
    if path.suffix == ".json" and content.lstrip().startswith(b"["):
        parts = [(f"item {at}", one) for at, one in enumerate(_parsed(content, f"{path}: the array"), 1)]
    else:
        lines = ((f"line {at}", line) for at, line in enumerate(content.split(b"\n"), 1) if line.strip())
        parts = [(at, _parsed(line, f"{path}: {at}")) for at, line in lines]
    for at, row in parts:
        if not isinstance(row, dict):
            raise RecipeError(f"task: {path}: {at} is not an object of columns and values")
    return [row for _, row in parts]


def _parsed(text: bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"task: {where} is not JSON ({error})") from None


def _parquet(path: Path) -> list[Row]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise MissingDependencyError(f"{path}: Parquet needs pyarrow: {install('parquet')}") from None
    try:
        return list(parquet.read_table(path).to_pylist())
    except (OSError, ValueError, ArrowException) as error:
        raise RecipeError(f"task: {path}: not Parquet: {' '.join(str(error).split())}") from None


def _data_set(data: str, split: str, subset: str | None) -> list[Row]:
    try:
        import datasets
    except ImportError:
        raise MissingDependencyError(f"datasets is not installed: {install('runs')}") from None
    datasets.disable_progress_bars()
    try:
        if (Path(data) / "state.json").exists() or (Path(data) / "dataset_dict.json").exists():
            found = datasets.load_from_disk(data)
            found = found[split] if isinstance(found, dict) else found
        else:
            found = datasets.load_dataset(data, subset, split=split)
        found = found.with_format(None)  # Python's types, not those of numpy or torch
        names = {key: kind for key, kind in found.features.items() if isinstance(kind, datasets.ClassLabel)}
        return [
            {
                key: names[key].int2str(one) if key in names and one is not None else one
                for key, one in row.items()
            }
            for row in found
        ]
    except ScrambleError:
        raise
    except Exception as error:  # the library and the hub raise many kinds
        raise RecipeError(f"task: {data}: {one_line(error)}") from None


class FileTask(VerifiableTask):
    """Prompts and answers from a data set.

    Attributes:
        data: a .jsonl, .json or .parquet file, a folder that `datasets` can load, or a data set's id on the
            hub.
        split, subset: of a data set; files have none.
        prompt, answer: names of the columns. A prompt is text or the messages of a chat; an answer is text, a
            number, or a list of these, any of which is right.
        template: the prompt, with `{prompt}` for the column's text; of a chat, its last message.
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

        Raises:
            RecipeError: they are of other types.
        """
        return self.accepting(cell(row, self.answer, where).answers(), row, where)

    def accepting(self, answers: Sequence[Answer], row: Row, where: str) -> Example:
        """The row's prompt with these answers."""
        return Example(
            self.filled(cell(row, self.prompt, where).prompt()), write(answers), in_words(answers[0])
        )

    def filled(self, prompt: Prompt) -> Prompt:
        """The template with the prompt in it."""
        if isinstance(prompt, str):
            return self.template.replace("{prompt}", prompt)
        *before, last = prompt
        return (*before, last._replace(content=self.template.replace("{prompt}", last.content)))

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
        examples = [self.example(row, f"{data}: row {number}") for number, row in enumerate(rows, 1)]
        chats = [not isinstance(example.prompt, str) for example in examples]
        if any(chats) and not all(chats):
            raise RecipeError(
                f"task: {data}: column '{self.prompt}' holds texts (row {chats.index(False) + 1}) and "
                f"messages (row {chats.index(True) + 1})"
            )
        return examples

    def _drawn(self, examples: list[Example]) -> set[Prompt]:
        """Prompts that are held out: a draw from the different prompts, so that no copy is trained on."""
        prompts = sorted({example.prompt for example in examples})
        if self.held_out_rows >= len(prompts):
            raise RecipeError(
                f"task.held_out_rows: {self.held_out_rows} of {len(prompts)} different prompts leave none "
                "to train on"
            )
        return set(random.Random(self.seed).sample(prompts, self.held_out_rows))
