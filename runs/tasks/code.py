"""Programs that must pass tests. They run in `runs.sandbox`."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from pydantic import PositiveFloat, PositiveInt, field_validator, model_validator

from scramble.errors import RecipeError, RunError
from scramble.runs.sandbox.sandbox import Isolation, Module, Sandbox
from scramble.runs.tasks.data.cells import cell
from scramble.runs.tasks.data.example import Example
from scramble.runs.tasks.data.fences import program_in
from scramble.runs.tasks.data.rows import FileTask, Row

# What a program need not import: annotations such as `List[int]`, and the modules that short programs use.
PREAMBLE = """\
import bisect, collections, functools, heapq, itertools, math, operator, random, re, string, sys
from collections import Counter, OrderedDict, defaultdict, deque
from typing import *
"""
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)


class Code(FileTask):
    """A completion is right if the tests, which use its program's names, run to their end.

    The program is found by `scramble.runs.tasks.data.fences.program_in`.

    Attributes:
        answer: the column with the tests: Python, or a list of lines as in MBPP.
        entry_point: the column with the name that HumanEval's `check` is called with.
        continues_prompt: the completion is the rest of the program that the prompt begins.
        seconds, memory_mb: CPU time and address space of one program.
        isolation, module: see `runs.sandbox.sandbox.Sandbox`.
        preamble: Python that stands before every program and its tests; empty for nothing.
    """

    name: Literal["code"]
    answer: str = "tests"
    entry_point: str | None = None
    continues_prompt: bool = False
    seconds: PositiveFloat = 5.0
    memory_mb: PositiveInt = 1024
    isolation: Isolation = "full"
    module: Module = "__main__"
    preamble: str = PREAMBLE

    @field_validator("preamble")
    @classmethod
    def _python(cls, preamble: str) -> str:
        try:
            ast.parse(preamble)
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"not Python ({error})") from None
        return preamble

    @model_validator(mode="after")
    def _prompt_is_code(self) -> Code:
        if self.continues_prompt and self.template != "{prompt}":
            raise ValueError(
                "a template and continues_prompt exclude each other: the prompt is part of the program"
            )
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        return (*super().columns, *filter(None, [self.entry_point]))

    @property
    def batch_seconds(self) -> float:
        return self._sandbox.wall + 1

    @property
    def _sandbox(self) -> Sandbox:
        return Sandbox(self.seconds, self.memory_mb << 20, self.isolation, self.preamble, self.module)

    def example(self, row: Row, where: str) -> Example:
        """The prompt, and as answer what stands before a completion and its tests (JSON)."""
        text = cell(row, self.answer, where).lines()
        if self.entry_point:
            name = cell(row, self.entry_point, where).text()
            if not name.isidentifier():
                raise RecipeError(f"task: {where}: column '{self.entry_point}' holds {name!r}, not a name")
            text += f"\ncheck({name})"
        try:
            statements = ast.parse(text).body
        except (SyntaxError, ValueError) as error:
            raise RecipeError(f"task: {where}: its tests are not Python ({error})") from None
        if all(isinstance(one, _DEFINITIONS) or _is_text(one) for one in statements):
            raise RecipeError(
                f"task: {where}: its tests define and import names and check nothing; is `entry_point` "
                "missing, or a call of the test functions?"
            )
        prompt = self.filled(cell(row, self.prompt, where).prompt())
        if self.continues_prompt and not isinstance(prompt, str):
            raise RecipeError(f"task: {where}: column '{self.prompt}' holds a chat, which no program begins")
        return Example(prompt, json.dumps([prompt if self.continues_prompt else "", text]))

    def check(self, completions: Sequence[str], answers: Sequence[str]) -> list[bool]:
        """One process for each, as many at once as there are cores.

        Raises:
            RunError: programs cannot be isolated here.
        """
        known = [json.loads(answer) for answer in answers]
        programs = [program_in(text, before) for text, (before, _) in zip(completions, known, strict=True)]
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            outcomes = list(pool.map(self._sandbox.run, programs, [tests for _, tests in known]))
        return [outcome.passed for outcome in outcomes]

    def checked_examples(self) -> list[Example]:
        """All prompts, after a look whether right programs pass here and wrong ones do not.

        Raises:
            RunError: they do not; or programs cannot be isolated here.
        """
        examples = self.examples()
        program = "def count(n):\n    return list(range(n))"
        right, wrong = (
            self._sandbox.run(program, f"assert count(100_000) {relation} list(range(100_000))")
            for relation in ("==", "!=")
        )
        if not right.passed or wrong.passed:
            raise RunError(
                f"task code: with {self.seconds:g} s and {self.memory_mb} MB a right program fails here, "
                "or a wrong one passes"
            )
        return examples

    def facts(self) -> dict[str, Any]:
        """What programs had given up before they ran."""
        return {"isolation": self._sandbox.run("", "").isolation or "none: resource limits only"}


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
