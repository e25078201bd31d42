"""Runs in the process of a program that is not trusted, before and around it. Standard library alone.

The job comes as JSON on standard input. What it is called with: `runs.tasks.sandbox`. On the pipe whose number the
job names, one line says which isolation is in force, and after it the token, if the tests ran to their end.
"""

from __future__ import annotations

import _thread
import builtins
import collections
import ctypes
import gc
import json
import os
import resource
import struct
import sys
import time
from types import CodeType
from typing import Any

# linux/prctl.h, linux/seccomp.h, linux/bpf_common.h, linux/landlock.h
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_X86_64 = 0xC000003E
_ALLOW, _REFUSE, _UNKNOWN, _KILL = 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 38, 0x80000000
_LOAD, _EQUAL, _ABOVE, _ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_NUMBER, _ARCHITECTURE = 0, 4

# System calls of x86-64, by what they would do. Calls above the last that was known here do not exist for the program.
_LAST_KNOWN = 470
_REFUSED = {
    "network": (41, 425),  # socket, io_uring_setup
    "processes": (57, 58, 59, 322),  # fork, vfork, execve, execveat
    "other processes": (62, 101, 129, 200, 297, 310, 311, 312, 424, 434, 438),  # kill, ptrace, pidfd_*
    "attributes of files": (90, 91, 92, 93, 94, 132, 188, 189, 190, 197, 198, 199, 235, 260, 261, 268, 280)
    + (452, 463, 466, 76),  # chmod, chown, utime, xattr, truncate: Landlock does not cover these
    "memory without a limit": (29, 64, 68, 240, 319, 447),  # shmget, semget, msgget, mq_open, memfd
    "the system": (133, 155, 159, 160, 161, 163, 164, 165, 166, 167, 168, 169, 170, 171, 172, 173, 175, 176)
    + (179, 103, 227, 246, 248, 249, 250, 259, 272, 298, 304, 305, 308, 313, 320, 321, 323)
    + (428, 429, 430, 431, 432, 433, 442, 443),  # mount, chroot, modules, clocks, keys, limits, bpf
}
_PATH_WRITES = (82, 83, 84, 85, 86, 87, 88, 258, 263, 264, 265, 266, 316)  # rename, mkdir, unlink, link, creat
_CLONE, _CLONE3, _TGKILL, _PRLIMIT, _OPEN, _OPENAT, _OPENAT2 = 56, 435, 234, 302, 2, 257, 437
_CLONE_THREAD = 0x10000
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

_READ, _ALL_FILE_RIGHTS, _FILE_RIGHTS = 0b1101, (1 << 15) - 1, 0b100000000000110
_READABLE = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/dev/urandom", "/dev/random")

# Ways to another thread's frames, or around them; the program dies that takes one.
_LOOKING = {"sys._current_frames", "sys._current_exceptions", "gc.get_objects", "gc.get_referrers"}
_LOOKING |= {"gc.get_referents", "sys.addaudithook", "sys.settrace", "sys.setprofile"}
_LOOKING |= {"sys.monitoring.register_callback", "ctypes.string_at", "ctypes.cdata", "ctypes.call_function"}


class Refused(Exception):
    """The isolation that was asked for cannot be had."""


def _jump(code: int, value: int, yes: int, no: int) -> bytes:
    return struct.pack("HBBI", code, yes, no, value)


def _do(code: int, value: int) -> bytes:
    return struct.pack("HBBI", code, 0, 0, value)


def _argument(number: int, high: bool = False) -> int:
    return 16 + 8 * number + (4 if high else 0)


def _refuse(number: int, answer: int = _REFUSE) -> list[bytes]:
    return [_jump(_EQUAL, number, 0, 1), _do(_RETURN, answer)]


def _if_call(number: int, checks: list[bytes]) -> list[bytes]:
    """Checks for one call; the call's number is loaded again after them."""
    return [_jump(_EQUAL, number, 0, len(checks) + 1), *checks, _do(_LOAD, _NUMBER)]


def _filter(writes_by_path: bool) -> bytes:
    """A seccomp program: no sockets, no processes (threads are allowed), no look at other processes.

    Args:
        writes_by_path: Landlock guards the files; without it no file can be opened for writing at all.
    """
    program = [_do(_LOAD, _ARCHITECTURE), _jump(_EQUAL, _X86_64, 1, 0), _do(_RETURN, _KILL)]
    program += [_do(_LOAD, _NUMBER), _jump(_ABOVE, _LAST_KNOWN, 0, 1), _do(_RETURN, _UNKNOWN)]
    for number in [number for numbers in _REFUSED.values() for number in numbers]:
        program += _refuse(number)
    program += _refuse(_CLONE3, _UNKNOWN)  # its flags lie in memory; glibc then takes clone
    program += _if_call(
        _CLONE,
        [_do(_LOAD, _argument(0)), _jump(_ANY_BIT, _CLONE_THREAD, 1, 0), _do(_RETURN, _REFUSE)],
    )
    program += _if_call(
        _TGKILL, [_do(_LOAD, _argument(0)), _jump(_EQUAL, os.getpid(), 1, 0), _do(_RETURN, _REFUSE)]
    )
    new_limit = [_do(_LOAD, _argument(2)), _jump(_EQUAL, 0, 1, 0), _do(_RETURN, _REFUSE)]
    new_limit += [_do(_LOAD, _argument(2, high=True)), _jump(_EQUAL, 0, 1, 0), _do(_RETURN, _REFUSE)]
    program += _if_call(_PRLIMIT, new_limit)
    if not writes_by_path:
        for number in _PATH_WRITES:
            program += _refuse(number)
        program += _refuse(_OPENAT2, _UNKNOWN)
        for number, flags in ((_OPEN, 1), (_OPENAT, 2)):
            refused = [_jump(_ANY_BIT, _WRITING, 0, 1), _do(_RETURN, _REFUSE)]
            program += _if_call(number, [_do(_LOAD, _argument(flags)), *refused])
    return b"".join([*program, _do(_RETURN, _ALLOW)])


def _checked(result: int, what: str) -> int:
    if result < 0:
        raise Refused(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def _seccomp(libc: Any, writes_by_path: bool) -> None:
    if os.uname().machine != "x86_64":
        raise Refused(f"the seccomp filter is written for x86-64, this is {os.uname().machine}")
    program = ctypes.create_string_buffer(_filter(writes_by_path))
    header = ctypes.create_string_buffer(
        struct.pack("HxxxxxxP", (len(program) - 1) // 8, ctypes.addressof(program))
    )
    _checked(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0), "seccomp")


def _landlock(libc: Any, folder: str) -> int:
    """Write inside `folder` alone, read there and where Python lives; returns the kernel's version, 0 for none."""
    version = int(libc.syscall(444, None, 0, 1))
    if version < 3:  # earlier ones do not guard truncation
        return 0
    handled = struct.pack("QQQ", _ALL_FILE_RIGHTS, 0b11 if version >= 4 else 0, 0b11 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    rules = _checked(libc.syscall(444, handled, ctypes.c_size_t(size), 0), "Landlock")
    python = {sys.prefix, sys.base_prefix, *filter(os.path.isdir, sys.path)}
    rights = dict.fromkeys((*_READABLE, *python), _READ) | {"/dev/null": _FILE_RIGHTS}
    for path, allowed in (rights | {folder: _ALL_FILE_RIGHTS & ~1}).items():
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        if not os.path.isdir(path):  # noqa: PTH112
            allowed &= 0b100000000000111  # execute, write, read, truncate: the rights that a file has
        rule = struct.pack("=Qi", allowed, place)
        _checked(libc.syscall(445, rules, 1, rule, 0), f"Landlock: {path}")
        os.close(place)
    _checked(libc.syscall(446, rules, 0), "Landlock")
    os.close(rules)
    return version


def isolate(folder: str, use_landlock: bool) -> dict[str, str]:
    """Give up network, other processes, and files outside `folder`, for good; returns what is in force.

    Raises:
        Refused: the kernel does not let this process do it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    version = _landlock(libc, folder) if use_landlock else 0
    _seccomp(libc, writes_by_path=version > 0)
    return {
        "network": "none (seccomp)",
        "processes": "none (seccomp)",
        "writes": f"its own folder (Landlock {version})" if version else "none (seccomp)",
        "reads": f"its own folder and Python's (Landlock {version})" if version else "whatever the user may",
    }


def _limit(job: dict[str, Any]) -> None:
    for name, value in {
        resource.RLIMIT_AS: job["memory"],
        resource.RLIMIT_CPU: job["cpu"],
        resource.RLIMIT_FSIZE: 16 << 20,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }.items():
        resource.setrlimit(name, (value, value))


def _on_event(event: str, _: Any, die: Any = os._exit, looking: frozenset[str] = frozenset(_LOOKING)) -> None:
    if event in looking:
        die(1)


def _carry_out(codes: list[CodeType], token: bytes, pipe: int) -> None:
    """Run the codes one after another; write the token if the last one came to its end.

    They run in a thread that is started from C: no frame of this function is above theirs, and what says that they
    ended (`done`) can be reached from here alone. What this function calls is bound before they run.
    """
    exit, write, sleep, running, length = os._exit, os.write, time.sleep, _thread._count, len
    names = {"__name__": "solution", "__builtins__": dict(vars(builtins))}
    done: collections.deque[None] = collections.deque()
    wanted = length(codes)
    sys.addaudithook(_on_event)
    _thread.stack_size(64 << 20)
    _thread.start_new_thread(done.extend, (map(exec_code, codes, [names] * wanted),))
    sleep(0.001)
    while length(done) < wanted and running() > 0:
        sleep(0.002)
    if length(done) == wanted:
        write(pipe, token)
    exit(0)


exec_code = exec


def main() -> None:
    job = json.load(sys.stdin)
    pipe = job["pipe"]
    _limit(job)
    try:
        found = {} if job["isolation"] == "none" else isolate(job["folder"], job["isolation"] != "seccomp")
    except Refused as refused:
        os.write(pipe, json.dumps({"refused": str(refused)}).encode() + b"\n")
        os._exit(3)
    os.write(pipe, json.dumps(found).encode() + b"\n")
    try:
        codes = [compile(job["program"], "<solution>", "exec"), compile(job["tests"], "<tests>", "exec")]
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        os._exit(1)
    token = job["token"].encode()
    del job
    for name in ("ctypes", "_ctypes", "__main__"):
        sys.modules.pop(name, None)
    gc.collect()
    _carry_out(codes, token, pipe)


if __name__ == "__main__":
    main()
