"""Only tests with a mark that `make test` leaves out may train: here, or in a child process."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import pytest

MARKS = ("train", "real_model", "vllm")
# What a command line of this project holds that trains; `experiment` trains by lanes.
TRAINING = ("scramble.runs.worker", "run", "experiment", "demo")
REFUSAL = "this test trains: give it the mark `train`, which `make test` leaves out"


def swept(cases: Iterable[Any], kept: int) -> list[Any]:
    """The cases of a long sweep: `make test` has the first `kept`, `make test-train` the others."""
    return [
        case if at < kept else pytest.param(*_values(case), marks=pytest.mark.train)
        for at, case in enumerate(cases)
    ]


def _values(case: Any) -> tuple[Any, ...]:
    return case if isinstance(case, tuple) else (case,)


class Guard:
    """Fails a test without such a mark that trains, also where the code under test turns that into a result.

    Attributes:
        allowed: whether the test that is running may train.
        tried: whether it trained nevertheless.
    """

    def __init__(self) -> None:
        self.allowed, self.tried = True, False

    def install(self) -> None:
        """Watch child processes, and transformers' trainer, which all trainers of TRL and ours are."""
        from transformers import Trainer

        train = Trainer.train

        def watched(*arguments: Any, **named: Any) -> Any:
            self.see()
            return train(*arguments, **named)

        Trainer.train = watched  # type: ignore[method-assign]
        sys.addaudithook(self._hear)

    def see(self) -> None:
        """Something trains now."""
        if not self.allowed:
            self.tried = True
            pytest.fail(REFUSAL)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen" and trains(arguments[1]):
            self.see()


def trains(command: Any) -> bool:
    """Whether a child process's command line is one of this project's that trains."""
    words = [command] if isinstance(command, str | bytes) else list(map(str, command))
    return str(sys.executable) in words[:1] and any(word in TRAINING for word in words)
