"""Two processes that are isolated and limited: one runs a program that is not trusted, the other its tests.

The job is the first argument, JSON (see `sandbox`); the tests come on standard input, and the process of the
program has none. The parent of the two reads from the pipe that the job names: a line with the isolation in
force, then `passed` if the tests passed. The program's process has neither that pipe nor the tests' text.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
from pathlib import Path
from typing import Any

from scramble.errors import one_line
from scramble.runs.sandbox.isolation import RefusedError, isolate
from scramble.runs.sandbox.judge import run_tests
from scramble.runs.sandbox.program import run_program

_STACK = 64 << 20  # bytes, for deep recursion


def main() -> None:
    job = json.loads(sys.argv[1])
    ours, theirs = socket.socketpair()
    try:  # once for both, for what it imports
        exec(compile(job["preamble"], "<preamble>", "exec", dont_inherit=True), {})
    except Exception as error:
        os.write(job["pipe"], json.dumps({"preamble": one_line(error)}).encode() + b"\n")
        os._exit(3)
    if os.fork() == 0:
        _program(job, theirs)
    theirs.close()
    _tests(job, ours)


def _program(job: dict[str, Any], connection: socket.socket) -> None:
    """Says on the connection which isolation is in force, runs the program and serves the tests."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    kept = connection.fileno()
    os.closerange(3, kept)
    os.closerange(kept + 1, 4096)
    connection.sendall(json.dumps(_confined(job)).encode() + b"\n")
    run_program(connection, Path(job["folder"], "solution.py"), job["preamble"], job["module"])


def _tests(job: dict[str, Any], connection: socket.socket) -> None:
    tests = sys.stdin.read()
    found = json.loads(connection.makefile("rb", buffering=0).readline() or "{}")
    own = _confined(job)
    os.write(job["pipe"], json.dumps(own if "refused" in own else found).encode() + b"\n")
    if run_tests(connection, job["preamble"], tests):
        os.write(job["pipe"], b"passed")
    os._exit(0)


def _confined(job: dict[str, Any]) -> dict[str, str]:
    """Give up rights, limit this process; what is in force."""
    for name, value in {
        resource.RLIMIT_AS: job["memory"],
        resource.RLIMIT_CPU: job["cpu"],
        resource.RLIMIT_FSIZE: 16 << 20,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }.items():
        resource.setrlimit(name, (value, value))
    most = resource.getrlimit(resource.RLIMIT_STACK)[1]
    resource.setrlimit(resource.RLIMIT_STACK, (_STACK if most == -1 else min(_STACK, most), most))
    try:
        return {} if job["isolation"] == "none" else isolate(job["folder"], job["isolation"] == "full")
    except RefusedError as refused:
        return {"refused": str(refused)}


if __name__ == "__main__":
    main()
