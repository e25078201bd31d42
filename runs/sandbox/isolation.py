"""A process gives up network, other processes and files outside one folder, for good. No privilege is needed.

seccomp: Documentation/userspace-api/seccomp_filter.rst of the kernel; Landlock: landlock.rst beside it.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from typing import Any

from scramble.runs.sandbox import system_calls as calls

# linux/prctl.h, linux/seccomp.h, linux/audit.h, linux/bpf_common.h
_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER, _X86_64 = 38, 22, 2, 0xC000003E
_ALLOW, _REFUSE, _UNKNOWN, _KILL = 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 38, 0x80000000
_LOAD, _EQUAL, _ABOVE, _ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_NUMBER, _ARCHITECTURE = 0, 4  # places in struct seccomp_data
_CLONE_THREAD = 0x10000
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

# linux/landlock.h: rights to execute, read files and read folders; all 15 up to truncation; write and
# truncate; and those that a file (not a folder) has.
_READ, _ALL, _WRITE, _OF_FILES = 0b1101, (1 << 15) - 1, 0b100000000000110, 0b100000000000111
_CREATE, _ADD, _RESTRICT = 444, 445, 446
_READABLE = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/dev/urandom", "/dev/random")


class RefusedError(Exception):
    """The isolation that was asked for cannot be had."""


def isolate(folder: str, use_landlock: bool) -> dict[str, str]:
    """Keep this process and its threads from all but `folder`; returns what is in force.

    Raises:
        RefusedError: the kernel does not let this process do it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    _checked(libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    version = _landlock(libc, folder) if use_landlock else 0
    _seccomp(libc, landlock=version > 0)
    return {
        "network": "none (seccomp)",
        "processes": "none (seccomp)",
        "writes": f"its own folder (Landlock {version})" if version else "none (seccomp)",
        "reads": f"its own folder and Python's (Landlock {version})" if version else "whatever the user may",
    }


def _jump(test: int, value: int, yes: int, no: int) -> bytes:
    return struct.pack("HBBI", test, yes, no, value)


def _do(what: int, value: int) -> bytes:
    return struct.pack("HBBI", what, 0, 0, value)


def _load(argument: int, high: bool = False) -> bytes:
    """Half of an argument of the call, which has 64 bits."""
    return _do(_LOAD, 16 + 8 * argument + (4 if high else 0))


def _refuse(number: int, answer: int = _REFUSE) -> list[bytes]:
    return [_jump(_EQUAL, number, 0, 1), _do(_RETURN, answer)]


def _of_call(number: int, *checks: bytes) -> list[bytes]:
    """Checks of one call; the call's number is loaded again after them."""
    return [_jump(_EQUAL, number, 0, len(checks) + 1), *checks, _do(_LOAD, _NUMBER)]


def _program(landlock: bool) -> bytes:
    """No sockets, no processes (threads are allowed), no other processes.

    Args:
        landlock: it guards the files; without it no file can be opened for writing at all.
    """
    refuse, zero = _do(_RETURN, _REFUSE), _jump(_EQUAL, 0, 1, 0)
    steps = [_do(_LOAD, _ARCHITECTURE), _jump(_EQUAL, _X86_64, 1, 0), _do(_RETURN, _KILL)]
    steps += [_do(_LOAD, _NUMBER), _jump(_ABOVE, calls.LAST_KNOWN, 0, 1), _do(_RETURN, _UNKNOWN)]
    for number in calls.REFUSED.values():
        steps += _refuse(number)
    steps += _refuse(calls.CLONE3, _UNKNOWN)  # its flags lie in memory; the C library then takes clone
    steps += _of_call(calls.CLONE, _load(0), _jump(_ANY_BIT, _CLONE_THREAD, 1, 0), refuse)
    steps += _of_call(calls.TGKILL, _load(0), _jump(_EQUAL, os.getpid(), 1, 0), refuse)
    steps += _of_call(calls.PRLIMIT64, _load(2), zero, refuse, _load(2, high=True), zero, refuse)
    if not landlock:
        for number in calls.WRITES_BY_PATH.values():
            steps += _refuse(number)
        steps += _refuse(calls.OPENAT2, _UNKNOWN)
        for number, flags in ((calls.OPEN, 1), (calls.OPENAT, 2)):
            steps += _of_call(number, _load(flags), _jump(_ANY_BIT, _WRITING, 0, 1), refuse)
    return b"".join([*steps, _do(_RETURN, _ALLOW)])


def _checked(result: int, what: str) -> int:
    if result < 0:
        raise RefusedError(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def _seccomp(libc: Any, landlock: bool) -> None:
    if os.uname().machine != "x86_64":
        raise RefusedError(f"the seccomp filter is written for x86-64, this is {os.uname().machine}")
    steps = ctypes.create_string_buffer(_program(landlock))
    program = struct.pack("HxxxxxxP", (len(steps) - 1) // 8, ctypes.addressof(steps))
    _checked(libc.prctl(_SET_SECCOMP, _FILTER, program, 0, 0), "seccomp")


def _landlock(libc: Any, folder: str) -> int:
    """Write inside `folder` alone, read there and where Python lives.

    Returns:
        The kernel's version of Landlock; 0 where there is none, or one that does not guard truncation.
    """
    version = int(libc.syscall(_CREATE, None, 0, 1))
    if version < 3:
        return 0
    network, scope = 0b11 if version >= 4 else 0, 0b11 if version >= 6 else 0
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    handled = struct.pack("QQQ", _ALL, network, scope)
    rules = _checked(libc.syscall(_CREATE, handled, ctypes.c_size_t(size), 0), "Landlock")
    python = {sys.prefix, sys.base_prefix, *filter(os.path.isdir, sys.path)}
    rights = dict.fromkeys((*_READABLE, *python), _READ) | {"/dev/null": _READ | _WRITE, folder: _ALL & ~1}
    for path, allowed in rights.items():
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        if not os.path.isdir(path):  # noqa: PTH112
            allowed &= _OF_FILES
        rule = struct.pack("=Qi", allowed, place)
        _checked(libc.syscall(_ADD, rules, 1, rule, 0), f"Landlock: {path}")
        os.close(place)
    _checked(libc.syscall(_RESTRICT, rules, 0), "Landlock")
    os.close(rules)
    return version
