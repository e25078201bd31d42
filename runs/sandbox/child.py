"""The process of a program that is not trusted, before and around it. Standard library alone.

The job comes as JSON on standard input (see `sandbox`). On the pipe that the job names, one line says
which isolation is in force, and after it stands the token, if the tests ran to their end.
"""

from __future__ import annotations

import _thread
import builtins
import collections
import itertools
import json
import os
import resource
import sys
import time
from types import CodeType
from typing import Any

from runs.sandbox.isolation import RefusedError, isolate

# Ways to another thread's frames and objects; the program ends that takes one.
_LOOKING = {
    *("sys._current_frames", "sys._current_exceptions", "gc.get_objects", "gc.get_referrers"),
    *("gc.get_referents", "sys.addaudithook", "sys.settrace", "sys.setprofile"),
    *("sys.monitoring.register_callback", "ctypes.string_at", "ctypes.cdata", "ctypes.call_function"),
}


def main() -> None:
    job = json.load(sys.stdin)
    pipe = job["pipe"]
    _limit(job)
    try:
        found = {} if job["isolation"] == "none" else isolate(job["folder"], job["isolation"] == "full")
    except RefusedError as refused:
        os.write(pipe, json.dumps({"refused": str(refused)}).encode() + b"\n")
        os._exit(3)
    os.write(pipe, json.dumps(found).encode() + b"\n")
    try:
        codes = [compile(job["program"], "<solution>", "exec"), compile(job["tests"], "<tests>", "exec")]
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        os._exit(1)
    token = job["token"].encode()
    del job
    _carry_out(codes, token, pipe)


def _limit(job: dict[str, Any]) -> None:
    for name, value in {
        resource.RLIMIT_AS: job["memory"],
        resource.RLIMIT_CPU: job["cpu"],
        resource.RLIMIT_FSIZE: 16 << 20,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }.items():
        resource.setrlimit(name, (value, value))


def _on_event(event: str, _: Any, end: Any = os._exit, looking: frozenset[str] = frozenset(_LOOKING)) -> None:
    if event in looking:
        end(1)


def _carry_out(codes: list[CodeType], token: bytes, pipe: int) -> None:
    """Run the codes one after another; write the token if the last one came to its end.

    They run in a thread that is started from C, so that no frame of this function is above theirs; what says
    that they ended (`done`) is known here alone. All that is called here after they began is bound before.
    """
    end, write, sleep, threads, length = os._exit, os.write, time.sleep, _thread._count, len
    names = {"__name__": "solution", "__builtins__": dict(vars(builtins))}
    done: collections.deque[None] = collections.deque()
    steps = itertools.chain([None], map(exec, codes, [names] * length(codes)))  # the first: it began
    wanted = length(codes) + 1
    sys.addaudithook(_on_event)
    _thread.stack_size(64 << 20)
    _thread.start_new_thread(done.extend, (steps,))
    while length(done) == 0 or (length(done) < wanted and threads() > 0):
        sleep(0.002)
    if length(done) == wanted:
        write(pipe, token)
    end(0)


if __name__ == "__main__":
    main()
