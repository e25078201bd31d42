"""Mathematics: GSM8K- and MATH-style data sets, answers compared as expressions by math-verify."""

from __future__ import annotations

import atexit
import json
import select
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Literal

from pydantic import PositiveFloat

from runs.tasks.rows import FileTask, Row
from runs.tasks.task import Example
from scramble.errors import MissingDependencyError, RecipeError, RunError

_MEMORY = 4 << 30
_START_SECONDS = 120
_LOOKED_AT = 100


class Math(FileTask):
    """The answer column may be the answer, GSM8K's solution (`... #### 42`), or a text with `\\boxed{...}`.

    Attributes:
        seconds: CPU time of one comparison; what takes longer is wrong.
    """

    name: Literal["math"]
    template: str = "{prompt}\nPut the final answer into \\boxed{}.\n"
    seconds: PositiveFloat = 5.0

    def example(self, row: Row, where: str) -> Example:
        found = super().example(row, where)
        answer = final_answer(found.answer)
        if not answer:
            raise RecipeError(f"task: {where}: no answer in column '{self.answer}'")
        return Example(found.prompt, answer)

    def check(self, completions: Sequence[str], answers: Sequence[str]) -> list[bool]:
        """Equal as expressions. What hangs, or needs more than 4 GiB, is wrong.

        Raises:
            MissingDependencyError: math-verify is not installed.
            RunError: the process that compares cannot be started.
        """
        comparer = _comparer(self.seconds)
        return [
            comparer.equal(answer, _after_mark(text))
            for text, answer in zip(completions, answers, strict=True)
        ]

    def checked_examples(self) -> list[Example]:
        """All prompts, after a look whether 100 answers, evenly spread, equal themselves.

        Raises:
            RecipeError: one does not, so that no completion could be right.
        """
        examples = self.examples()
        for example in examples[:: max(1, len(examples) // _LOOKED_AT)]:
            if not self.correct(f"\\boxed{{{example.answer}}}", example.answer):
                raise RecipeError(f"task: math-verify cannot read the answer {example.answer!r}")
        return examples

    @property
    def batch_seconds(self) -> float:
        return 2 * self.seconds + _START_SECONDS


def final_answer(text: str) -> str:
    """What stands after the last `####`, else in the last `\\boxed{}`, else the text."""
    if "####" in text:
        return text.rpartition("####")[2].strip().split("\n")[0].strip()
    start = text.rfind("\\boxed{")
    if start < 0:
        return text.strip()
    depth, begin = 0, start + len("\\boxed")
    for place in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[begin + 1 : place].strip()
    return ""


def _after_mark(completion: str) -> str:
    """GSM8K's mark is not LaTeX; what stands after it is the answer."""
    return f"\\boxed{{{final_answer(completion)}}}" if "####" in completion else completion


class _Comparer:
    """The process that compares; a new one for each that died."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.process: subprocess.Popen[str] | None = None
        atexit.register(self.end)

    def equal(self, answer: str, completion: str) -> bool:
        process = self.process or self._start()
        try:
            process.stdin.write(json.dumps([answer, completion]) + "\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            said = self._line(process, 10 * self.seconds + 10)
        except BrokenPipeError:
            said = ""
        if said not in ("0", "1"):
            self.end()
        return said == "1"

    def end(self) -> None:
        if self.process:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def _start(self) -> subprocess.Popen[str]:
        if find_spec("math_verify") is None:
            raise MissingDependencyError("math-verify is not installed: pip install 'scramble[runs]'")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "runs.tasks.math_worker", str(self.seconds), str(_MEMORY)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        if self._line(self.process, _START_SECONDS) != "ready":
            self.end()
            raise RunError("task math: the process that compares expressions does not start")
        return self.process

    @staticmethod
    def _line(process: subprocess.Popen[str], seconds: float) -> str:
        """The next line, or nothing where the process died or hangs without computing."""
        if process.stdout is None or not select.select([process.stdout], [], [], seconds)[0]:
            return ""
        return process.stdout.readline().strip()


@cache
def _comparer(seconds: float) -> _Comparer:
    return _Comparer(seconds)
