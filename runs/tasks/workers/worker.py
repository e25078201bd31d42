"""A process that answers questions about what a model wrote: what hangs or takes all memory ends it alone.

A question is a line of JSON, an answer a line of text. `Worker` asks; `serve` answers, in the other process.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from scramble.child import python
from scramble.errors import RunError

START_SECONDS = 120
_MOST_ALIVE = 4


class Worker:
    """Starts `python -m module arguments`, and a new one after each that died.

    Of many workers in one process the last few live; the others start again when they are asked.

    Args:
        seconds: wall time of an answer.
    """

    _alive: ClassVar[list[Worker]] = []

    def __init__(self, module: str, arguments: Sequence[str], seconds: float) -> None:
        self.module, self.arguments, self.seconds = module, list(arguments), seconds
        self.process: subprocess.Popen[str] | None = None
        atexit.register(self.end)

    def check(self) -> None:
        """Before the process is started.

        Raises:
            MissingDependencyError: a library is not installed.
        """

    def ask(self, question: Any) -> str:
        """The answer; empty where the process died of the question.

        Raises:
            RunError: the process cannot be started.
        """
        process = self.process or self._start()
        try:
            process.stdin.write(json.dumps(question) + "\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            said = self._line(process, self.seconds)
        except BrokenPipeError:
            said = ""
        if not said:
            self.end()
        return said

    def end(self) -> None:
        if self in self._alive:
            self._alive.remove(self)
        if self.process:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def _start(self) -> subprocess.Popen[str]:
        self.check()
        while len(self._alive) >= _MOST_ALIVE:
            self._alive[0].end()
        self._alive.append(self)
        self.process = subprocess.Popen(
            python("-m", self.module, *self.arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"PYTHONHASHSEED": "0"},  # the order of sets is the same in each
        )
        if self._line(self.process, START_SECONDS) != "ready":
            self.end()
            raise RunError(f"the process that checks answers ({self.module}) does not start")
        return self.process

    @staticmethod
    def _line(process: subprocess.Popen[str], seconds: float) -> str:
        """The next line, or nothing where the process died or hangs without computing."""
        if process.stdout is None or not select.select([process.stdout], [], [], seconds)[0]:
            return ""
        return process.stdout.readline().strip()


def serve(answer: Callable[[Any], str]) -> None:
    """Answer questions until there are no more. What libraries print goes elsewhere."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(answer(json.loads(line)), file=answers, flush=True)


def limited(answer: Callable[[Any], str], seconds: float, memory: int) -> Callable[[Any], str]:
    """The same answers, from a process that may take so many bytes, and dies where one takes too long.

    Args:
        seconds: CPU time of one answer.
    """
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)

    def within(question: Any) -> str:
        # Its default action ends the process, inside a library's long computation too.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            return answer(question)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    return within
