"""Any data set of reasoning-gym, by name. Right is what gets the full mark of the data set's own scorer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal

from pydantic import Field

from scramble.errors import MissingDependencyError, RecipeError, RunError, install
from scramble.runs.tasks.data.example import Example
from scramble.runs.tasks.data.task import GeneratedTask, PatternTask
from scramble.runs.tasks.workers.worker import START_SECONDS, Worker

_SECONDS, _MEMORY = 5.0, 4 << 30  # CPU time and address space of one score
_MAKING_SECONDS = 1800  # wall time in which all entries must have been made
_LOOKED_AT = 100


class ReasoningGym(GeneratedTask, PatternTask):
    """A procedural data set.

    What `answer_pattern` extracts is right if the data set's own scorer gives it the full mark, 1; there are
    data sets with many right answers. Where a data set has no scorer of its own, the reasoning-gym gives a
    part of the mark to texts that hold the answer, and so the answer must be matched exactly here.

    Attributes:
        dataset: its name in reasoning-gym.
        options: its own settings.
        template: the prompt, with `{question}`.
    """

    name: Literal["reasoning-gym"]
    dataset: str
    options: dict[str, Any] = Field(default_factory=dict)
    template: str = "{question}\nAnswer:"
    answer_pattern: str = r"\s*([^\n]+)"

    def examples(self) -> list[Example]:
        """All prompts. With a scorer of the data set's own, an answer says where to find the entry.

        Raises:
            RecipeError: no such data set, it refuses the options, or it has neither an answer nor a scorer.
            MissingDependencyError: reasoning-gym is not installed.
        """
        return [self._example(index, *entry) for index, entry in enumerate(self._made["entries"])]

    def _example(self, index: int, question: str, answer: str | None, digest: str) -> Example:
        prompt = self.template.replace("{question}", question)
        if self._made["scored"]:
            written = {"seed": self.seed, "size": self.size, "index": index, "digest": digest}
            return Example(prompt, json.dumps(written), answer if isinstance(answer, str) else "")
        if not isinstance(answer, str):
            raise RecipeError(f"task: reasoning-gym '{self.dataset}' has neither answers nor a scorer")
        return Example(prompt, answer)

    @property
    def _made(self) -> dict[str, Any]:
        """The entries, and whether the data set has a scorer of its own."""
        made = self._scorer.made(self.seed, self.size)
        if "refused" in made:
            raise RecipeError(f"task: reasoning-gym '{self.dataset}' with {self.options}: {made['refused']}")
        return made

    @property
    def _scorer(self) -> _Scorer:
        return _scorer(self.dataset, json.dumps(self.options))

    def correct(self, completion: str, answer: str) -> bool:
        """Whether what is extracted gets the full mark, or equals the answer.

        Raises:
            RunError: the process that scores cannot be started or isolated, or the data set makes other
                entries than it made before.
        """
        if not self._made["scored"]:
            return super().correct(completion, answer)
        said = self.extracted(completion)
        return said is not None and self._scorer.right(said, answer)

    def checked_examples(self) -> list[Example]:
        """All prompts, after a look whether their own answers would be accepted.

        The scorer is asked for 100 of them, evenly spread, and about no answer at all, which must be wrong.

        Raises:
            RecipeError: one would not be, so that no reward could be right.
        """
        if not self._made["scored"]:
            return super().checked_examples()
        examples, name = self.examples(), self.dataset
        for one in examples:
            if one.imitated and self.extracted(f" {one.imitated}") != one.imitated.strip():
                raise RecipeError(self._unextracted(one.imitated))
        for one in examples[:: max(1, len(examples) // _LOOKED_AT)]:
            if one.imitated and not self.correct(f" {one.imitated}", one.answer):
                raise RecipeError(
                    f"task: reasoning-gym '{name}' does not give its answer {one.imitated!r} full marks"
                )
            if self._scorer.right("", one.answer):
                raise RecipeError(f"task: reasoning-gym '{name}' gives full marks to no answer at all")
        return examples

    @property
    def batch_seconds(self) -> float:
        return 2 * _SECONDS + START_SECONDS

    def facts(self) -> dict[str, Any]:
        """Which check is in force."""
        return {"scorer": "the data set's own, full mark" if self._made["scored"] else "exact match"}


class _Scorer(Worker):
    """A data set in a process of its own, see `scramble.runs.tasks.workers.gym_worker`."""

    def __init__(self, dataset: str, options: str) -> None:
        arguments: Sequence[str] = (dataset, options, str(_SECONDS), str(_MEMORY))
        super().__init__("scramble.runs.tasks.workers.gym_worker", arguments, _MAKING_SECONDS)
        self.dataset, self.known = dataset, dict[tuple[int, int], dict[str, Any]]()

    def made(self, seed: int, size: int) -> dict[str, Any]:
        """The entries, and whether the data set has a scorer of its own; or why there are none."""
        if (seed, size) not in self.known:
            self.known[seed, size] = json.loads(self._asked({"seed": seed, "size": size}))
        return self.known[seed, size]

    def right(self, said: str, answer: str) -> bool:
        """Whether a text gets the full mark."""
        found = self._asked({**json.loads(answer), "said": said})
        if found not in ("0", "1"):
            raise RunError(f"task: reasoning-gym '{self.dataset}': {found}")
        return found == "1"

    def check(self) -> None:
        if find_spec("reasoning_gym") is None:
            raise MissingDependencyError(f"reasoning-gym is not installed: {install('runs')}")

    def _asked(self, question: dict[str, Any]) -> str:
        """Texts are scored in forks, so that no text can be why nothing comes."""
        if not (found := self.ask(question)):
            raise RunError(
                f"task: reasoning-gym '{self.dataset}': the process that makes entries and scores died, or "
                f"took more than {_MAKING_SECONDS} s"
            )
        return found


@cache
def _scorer(dataset: str, options: str) -> _Scorer:
    return _Scorer(dataset, options)
