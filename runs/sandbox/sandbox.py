"""Run a program that is not trusted, with tests after it: in a process of its own, isolated and limited.

The process gives up what it may do itself (`isolation`): Landlock and a seccomp filter need no privilege and
no user namespaces, so that this works in containers too. Linux on x86-64.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scramble.errors import RunError

Isolation = Literal["full", "seccomp", "none"]
# The program's process finds this package, and then forgets where.
_CHILD = (
    f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); "
    "from runs.sandbox.child import main; del sys.path[0]; main()"
)
_MOST = 4096  # bytes that a program may send here; the two lines that are expected are shorter


@dataclass(frozen=True)
class Outcome:
    """Whether the tests ran to their end, and what the process had given up before (empty: nothing)."""

    passed: bool
    isolation: dict[str, str]


@dataclass(frozen=True)
class Sandbox:
    """Limits of one program.

    Attributes:
        seconds: CPU time, rounded up; wall time is twice that and a second.
        memory: address space, bytes.
        isolation: `full` is Landlock and seccomp, or seccomp alone where there is no Landlock (then no file
            can be written at all); `seccomp` is the latter; `none` keeps the limits only.
    """

    seconds: float = 5.0
    memory: int = 1 << 30
    isolation: Isolation = "full"

    @property
    def wall(self) -> float:
        return 2 * self.seconds + 1

    def run(self, program: str, tests: str) -> Outcome:
        """Run both in one interpreter; its output is thrown away, its folder removed, its group killed.

        Raises:
            RunError: the isolation cannot be had here, or the process did not even start.
        """
        token = secrets.token_hex(16)
        with tempfile.TemporaryDirectory(prefix="scramble-code-") as folder:
            reader, writer = os.pipe()
            try:
                process = self._start(folder, writer)
            finally:
                os.close(writer)
            job = {"program": program, "tests": tests, "token": token, "pipe": writer, "folder": folder}
            job |= {"memory": self.memory, "cpu": math.ceil(self.seconds), "isolation": self.isolation}
            try:
                said = self._listen(process, json.dumps(job).encode(), reader)
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
        if "refused" in isolation:
            raise RunError(
                f"programs cannot be isolated here: {isolation['refused']}; "
                "'isolation: none' in the task runs them without"
            )
        return Outcome(rest == token.encode(), isolation)

    def _start(self, folder: str, writer: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-P", "-s", "-B", "-c", _CHILD],
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

    def _listen(self, process: subprocess.Popen[bytes], job: bytes, reader: int) -> bytes:
        """What the process sends until it ends, has sent too much, or has no time left."""
        deadline = time.monotonic() + self.wall
        if process.stdin is not None:
            with suppress(BrokenPipeError):
                process.stdin.write(job)
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
