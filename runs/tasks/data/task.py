"""What a task is: prompts with answers, prompts held out from training, and a check."""

from __future__ import annotations

import hashlib
import re
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from pydantic import PositiveInt, field_validator

from scramble.errors import RecipeError, RunError
from scramble.runs.section import Section
from scramble.runs.tasks.data.answers import in_words, read, same
from scramble.runs.tasks.data.example import Example, Message, shown

_GROWTHS = 6  # how often a generated task is asked for twice as many prompts to find new ones


class BaseTask(Section, ABC):
    """What a run trains on.

    Attributes:
        seed: of the prompts; the run's own seed decides their order.
    """

    paths: ClassVar[tuple[str, ...]] = ()
    """Settings that name files or folders; what is in them decides the weights, not where they are."""
    later: ClassVar[tuple[str, ...]] = ()
    """Settings that recipes once did not have; at its default, such a one identifies no run."""

    not_deciding: ClassVar[frozenset[str]] = frozenset({"held_out_data"})
    """Settings that are in no fingerprint: they reach the evaluation only."""

    name: str
    seed: int = 0

    def decides(self) -> dict[str, Any]:
        """What of the task decides the weights: its settings, with digests in place of local paths."""
        fields = type(self).model_fields
        unsaid = {name for name in self.later if getattr(self, name) == fields[name].default}
        settings = self.model_dump(mode="json", exclude={*self.not_deciding, *unsaid})
        return settings | {name: _digest(settings[name]) for name in self.paths if settings[name]}

    @abstractmethod
    def checked_examples(self) -> list[Example]:
        """All prompts of training, the same for the same settings, after a look whether they can be used.

        Raises:
            RecipeError: they cannot.
        """

    @abstractmethod
    def scores(self, completions: Sequence[str | list[Message]], answers: Sequence[str]) -> list[float]:
        """1 for a right completion, else 0. Of a chat, the model's last message counts.

        Raises:
            RunError: there is no saying.
        """

    def facts(self) -> dict[str, Any]:
        """What `run.json` says of the task beside its recipe."""
        return {}

    @property
    def tools(self) -> list[Any]:
        """Functions that the model may call while it answers; then prompts are chats."""
        return []

    @property
    def turns(self) -> int | None:
        """Calls of tools in a row, at most."""
        return None

    def row(self, example: Example) -> dict[str, Any]:
        """What the data set of a trainer that samples holds for a prompt."""
        return {"prompt": shown(example.prompt), "answer": example.answer}


class VerifiableTask(BaseTask):
    """Prompts with answers, and a check that says for each completion whether it is right."""

    @abstractmethod
    def examples(self) -> list[Example]:
        """All prompts of training, the same for the same settings."""

    @abstractmethod
    def held_out(self, size: int) -> list[Example]:
        """`size` different prompts, none of them in training.

        Raises:
            RecipeError: there are fewer.
        """

    @abstractmethod
    def check(self, completions: Sequence[str], answers: Sequence[str]) -> list[bool]:
        """Whether each completion is right: one value a completion, in their order."""

    def checked_examples(self) -> list[Example]:
        return self.examples()

    @property
    def batch_seconds(self) -> float:
        """Wall time for each completion of a batch; what takes longer, and 30 s more, hangs."""
        return 1.0

    def scores(self, completions: Sequence[str | list[Message]], answers: Sequence[str]) -> list[float]:
        """1 for a right completion, else 0. Of a chat, the model's last message counts.

        Raises:
            RunError: the check hangs, or does not give one value in [0, 1] for each completion.
        """
        texts = [one if isinstance(one, str) else _last(one) for one in completions]
        with time_limit(30 + len(texts) * self.batch_seconds, f"task {self.name}: the check"):
            found = [float(one) for one in self.check(texts, answers)]
        if len(found) != len(texts):
            raise RunError(f"task {self.name}: {len(found)} scores for {len(texts)} completions")
        for text, one in zip(texts, found, strict=True):
            if not 0 <= one <= 1:  # nan is refused too
                raise RunError(f"task {self.name}: the score of {text[:80]!r} is {one}, not in [0, 1]")
        return found

    def correct(self, completion: str, answer: str) -> bool:
        """Whether one completion is right."""
        return self.scores([completion], [answer]) == [1.0]


class PatternTask(VerifiableTask):
    """Answers that are compared after extraction: texts letter by letter, numbers as numbers.

    Attributes:
        answer_pattern: regular expression, matched at the start of a completion; its first group is the
            answer.
    """

    answer_pattern: str

    @field_validator("answer_pattern")
    @classmethod
    def _one_group(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"not a regular expression ({error})") from None
        if groups < 1:
            raise ValueError("needs a group that captures the answer")
        return pattern

    def check(self, completions: Sequence[str], answers: Sequence[str]) -> list[bool]:
        return [self.correct(text, answer) for text, answer in zip(completions, answers, strict=True)]

    def correct(self, completion: str, answer: str) -> bool:
        """Whether `answer_pattern` extracts one of the accepted answers; no partial credit."""
        found = self.extracted(completion)
        return found is not None and any(same(found, accepted) for accepted in read(answer))

    def extracted(self, completion: str) -> str | None:
        """What `answer_pattern` finds."""
        found = re.match(self.answer_pattern, completion)
        return None if found is None else (found.group(1) or "").strip()

    def checked_examples(self) -> list[Example]:
        """All prompts, after a look whether their own answers would be accepted.

        Raises:
            RecipeError: `answer_pattern` can never extract an answer, so that no reward could be right.
        """
        examples = self.examples()
        for example in examples:
            for accepted in map(in_words, read(example.answer)):
                if not self.correct(f" {accepted}", example.answer):
                    raise RecipeError(self._unextracted(accepted))
        return examples

    def _unextracted(self, answer: str) -> str:
        return (
            f"task: answer_pattern {self.answer_pattern!r} does not extract the answer {answer!r} from a "
            "completion that is just this answer"
        )


class GeneratedTask(VerifiableTask):
    """Prompts that a program makes from a seed. Held-out prompts come from the next seed.

    Attributes:
        size: how many prompts there are.
    """

    size: PositiveInt = 2048

    def held_out(self, size: int) -> list[Example]:
        seen = {example.prompt for example in self.examples()}
        for growth in range(_GROWTHS):
            others = self.model_copy(update={"seed": self.seed + 1, "size": size << growth})
            new = {example.prompt: example for example in others.examples() if example.prompt not in seen}
            if len(new) >= size:
                return list(new.values())[:size]
        raise RecipeError(
            f"evaluation.size: {size} prompts outside training were asked for, the task gave {len(new)}"
        )


@contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """End what hangs, if it runs in Python or in a regular expression. In the main thread only.

    Raises:
        RunError: the time is over.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise RunError(f"{what} took more than {seconds:g} s and was stopped")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _last(messages: list[Message]) -> str:
    said = [one.get("content") or "" for one in messages if one.get("role") == "assistant"]
    return said[-1] if said and messages[-1].get("role") == "assistant" else ""


def _digest(data: str) -> str:
    """Of a file, or of every name and byte in a folder; the text itself where there is neither."""
    path = Path(data)
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    if not path.is_dir():
        return data
    found = hashlib.sha256()
    for one in sorted(path.rglob("*")):
        if one.is_file():
            found.update(f"{one.relative_to(path)} {hashlib.sha256(one.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()
