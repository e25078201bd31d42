"""Mathematics: GSM8K- and MATH-style data sets, answers compared as expressions by math-verify."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, cached_property
from importlib.util import find_spec
from typing import Any, ClassVar, Literal

from pydantic import PositiveFloat

from scramble.errors import MissingDependencyError, RecipeError, install
from scramble.runs.tasks.data.answers import Answer, in_words, read
from scramble.runs.tasks.data.cells import cell
from scramble.runs.tasks.data.example import Example
from scramble.runs.tasks.data.forms import FORMS, Form, final_answer, form_of, marked, words
from scramble.runs.tasks.data.rows import FileTask, Row, read_rows
from scramble.runs.tasks.workers.worker import START_SECONDS, Worker

_WORKER = "scramble.runs.tasks.workers.math_worker"
_MEMORY = 4 << 30
_LOOKED_AT = 100
_NUMBER = re.compile(r"-?\d{1,15}(\.\d{1,15})?|-?\d{1,3}(,\d{3}){1,4}")
_WRONG = ("104729", "104723")  # no two numbers are both right


class Math(FileTask):
    """The answer column holds answers or solutions, all of one form.

    Attributes:
        form: `plain`, `boxed` or `gsm8k` (see `data.forms`); `auto` is the form that all rows have.
        seconds: CPU time of one comparison; what takes longer is wrong.
    """

    later: ClassVar[tuple[str, ...]] = ("form",)

    name: Literal["math"]
    template: str = "{prompt}\nPut the final answer into \\boxed{}.\n"
    form: Literal["auto"] | Form = "auto"
    seconds: PositiveFloat = 5.0

    @cached_property
    def settled_form(self) -> Form:
        """The form of the data set: what the recipe says, else what all its rows have.

        Raises:
            RecipeError: they do not have the same one.
        """
        if self.form != "auto":
            return self.form
        rows = read_rows(self.data, self.columns, self.split, self.subset)
        named = [(row, f"{self.data}: row {at}") for at, row in enumerate(rows, 1)]
        return form_of(
            (answer, where)
            for row, where in named
            for answer in cell(row, self.answer, where).answers()
            if isinstance(answer, str)
        )

    def example(self, row: Row, where: str) -> Example:
        """A row's prompt and answer.

        Raises:
            RecipeError: the row does not have the form, or its answer is no mathematics.
        """
        answers = cell(row, self.answer, where).answers()
        return self.accepting([self._readable(answer, where) for answer in answers], row, where)

    def _readable(self, answer: Answer, where: str) -> str:
        """An answer as math-verify can read it."""
        if not isinstance(answer, str):
            return in_words(answer)
        found = final_answer(answer, self.settled_form)
        if not found:
            raise RecipeError(
                f"task: {where}: no answer in column '{self.answer}': the form is '{self.settled_form}', "
                f"{FORMS[self.settled_form]}"
            )
        for word in words(found):
            raise RecipeError(
                f"task: {where}: the answer {found!r} is no mathematics: if '{word}' belongs to it, write "
                f"\\text{{{word}}}"
            )
        if not _NUMBER.fullmatch(found) and not _comparer(self.seconds).reads(found):
            raise RecipeError(f"task: {where}: math-verify cannot read the answer {found!r}")
        return found

    def check(self, completions: Sequence[str], answers: Sequence[str]) -> list[bool]:
        """Equal as expressions. What hangs, or needs more than 4 GiB, is wrong.

        Raises:
            MissingDependencyError: math-verify is not installed.
            RunError: the process that compares cannot be started.
        """
        said = map(self._said, completions)
        return [self._equal(one, answer) for one, answer in zip(said, answers, strict=True)]

    def _equal(self, said: str, answer: str) -> bool:
        """Whether what was said is one of the accepted answers."""
        return any(_comparer(self.seconds).equal(in_words(one), said) for one in read(answer))

    def _said(self, completion: str) -> str:
        """math-verify reads completions as they are, but for GSM8K's mark, which is not LaTeX."""
        answer = marked(completion) if self.settled_form == "gsm8k" else None
        return completion if answer is None else f"\\boxed{{{answer}}}"

    def checked_examples(self) -> list[Example]:
        """All prompts, after a look at the check with 100 of them, evenly spread.

        Their answers are written as the last formula of a text without a box, which math-verify finds by
        other rules than those that it reads them by here; and of two different numbers one must be wrong.

        Raises:
            RecipeError: a right answer is wrong, or every answer is right.
        """
        examples = self.examples()
        for example in examples[:: max(1, len(examples) // _LOOKED_AT)]:
            for answer in map(in_words, read(example.answer)):
                if not self._equal(f"The final answer is $${answer}$$.", example.answer):
                    raise RecipeError(
                        f"task: math-verify does not find the answer {answer!r} at a text's end"
                    )
            if all(self._equal(f"\\boxed{{{number}}}", example.answer) for number in _WRONG):
                raise RecipeError(f"task: math-verify takes any number for the answer {example.text!r}")
        return examples

    @property
    def batch_seconds(self) -> float:
        return 2 * self.seconds + START_SECONDS

    def facts(self) -> dict[str, Any]:
        """The form of the data set."""
        return {"form": self.settled_form}


class _Comparer(Worker):
    """math-verify in a process of its own."""

    def __init__(self, seconds: float) -> None:
        super().__init__(_WORKER, [str(seconds), str(_MEMORY)], 10 * seconds + 10)

    def equal(self, answer: str, completion: str) -> bool:
        """Whether the completion's answer is this one."""
        return self.ask({"answer": answer, "completion": completion}) == "1"

    def reads(self, answer: str) -> bool:
        """Whether the answer is an expression, not only a text."""
        return self.ask({"answer": answer}) == "1"

    def check(self) -> None:
        if find_spec("math_verify") is None:
            raise MissingDependencyError(f"math-verify is not installed: {install('runs')}")


@cache
def _comparer(seconds: float) -> _Comparer:
    return _Comparer(seconds)
