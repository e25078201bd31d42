"""Run a program that is not trusted, and tests that use it: two processes, isolated and limited.

They give up what they may do themselves (`isolation`): Landlock and a seccomp filter need no privilege and
no user namespaces, so that this works in containers too. Linux on x86-64.
"""

from __future__ import annotations

import json
import math
import os
import select
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scramble.child import python
from scramble.errors import RunError

Isolation = Literal["full", "seccomp", "none"]
Module = Literal["__main__", "solution"]
_CHILD = "import sys; from scramble.runs.sandbox.child import main; sys.dont_write_bytecode = True; main()"
_MOST = 4096  # bytes that are read; the two lines that are expected are shorter


@dataclass(frozen=True)
class Outcome:
    """Whether the tests ran to their end, and what the processes had given up before (empty: nothing)."""

    passed: bool
    isolation: dict[str, str]


@dataclass(frozen=True)
class Sandbox:
    """Limits of one program, and how it is run.

    Attributes:
        seconds: CPU time of the program, and of its tests, rounded up; wall time is twice that and a second.
        memory: address space of the program, and of its tests, bytes.
        isolation: `full` is Landlock and seccomp, or seccomp alone where there is no Landlock (then no file
            can be written at all); `seccomp` is the latter; `none` keeps the limits only.
        preamble: Python that runs before the program in its module, and before the tests.
        module: the program's `__name__`: `__main__` as `python solution.py` has it, `solution` as
            `import solution` has.
    """

    seconds: float = 5.0
    memory: int = 1 << 30
    isolation: Isolation = "full"
    preamble: str = ""
    module: Module = "__main__"

    @property
    def wall(self) -> float:
        return 2 * self.seconds + 1

    def run(self, program: str, tests: str) -> Outcome:
        """Run the program, then the tests; output is thrown away, the folder removed, the group killed.

        Raises:
            RunError: the isolation cannot be had here, the preamble does not run, or the processes did not
                even start.
        """
        with tempfile.TemporaryDirectory(prefix="scramble-code-") as folder:
            Path(folder, "solution.py").write_bytes(program.encode("utf-8", "surrogatepass"))
            reader, writer = os.pipe()
            try:
                process = self._start(folder, writer)
            finally:
                os.close(writer)
            try:
                said = self._listen(process, tests.encode("utf-8", "surrogatepass"), reader)
            finally:
                os.close(reader)
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        first, _, rest = said.partition(b"\n")
        try:
            isolation = json.loads(first)
        except ValueError:
            raise RunError(
                f"the process for a program said nothing (exit code {process.returncode}); are {self.memory} "
                "bytes of memory enough for Python?"
            ) from None
        if "preamble" in isolation:
            raise RunError(f"the preamble of programs does not run here: {isolation['preamble']}")
        if "refused" in isolation:
            raise RunError(
                f"programs cannot be isolated here: {isolation['refused']}; "
                "'isolation: none' in the task runs them without"
            )
        return Outcome(rest == b"passed", isolation)

    def _start(self, folder: str, writer: int) -> subprocess.Popen[bytes]:
        job = {"folder": folder, "pipe": writer, "memory": self.memory, "cpu": math.ceil(self.seconds)}
        job |= {"isolation": self.isolation, "preamble": self.preamble, "module": self.module}
        return subprocess.Popen(
            python("-s", "-c", _CHILD, json.dumps(job)),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={
                "HOME": folder,
                "TMPDIR": folder,
                "LANG": "C.UTF-8",
                "PYTHONHASHSEED": "0",
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
            },
            pass_fds=(writer,),
            start_new_session=True,
        )

    def _listen(self, process: subprocess.Popen[bytes], tests: bytes, reader: int) -> bytes:
        """What the tests' process sends until it ends, has sent too much, or has no time left."""
        deadline = time.monotonic() + self.wall
        if process.stdin is not None:
            with suppress(BrokenPipeError):
                process.stdin.write(tests)
                process.stdin.close()
        said = b""
        while len(said) < _MOST and (left := deadline - time.monotonic()) > 0:
            if not select.select([reader], [], [], left)[0]:
                break
            chunk = os.read(reader, _MOST)
            if not chunk:
                break
            said += chunk
        return said
