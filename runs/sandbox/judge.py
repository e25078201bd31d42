"""The process of the tests, which never runs the program's code. What the program says is taken as data.

- A comparison of a program's object with data is never left to the object. It is made here, with the data of
  the list, dictionary, set or immutable value that the object is an instance of, if it is one.
- Arithmetic with data is left to an object only if the tests made it, by calling a class all of whose names
  in the program begin with a capital letter. It must give an object again, which has no number and no truth
  value here: a difference that claims to be small is no evidence. `in` is left to such an object too; of
  others the items are looked at.
- `__exit__` silences nothing but an exception that the tests raise themselves, and no failed assertion.
- The program may call what the tests hand to it, use its special methods, and read and set public attributes
  of instances of the tests' own classes, but no methods. It gets no module, frame or name of this process.
"""

from __future__ import annotations

import builtins
import dis
import os
import socket
import sys
import types
from importlib import import_module
from typing import Any

from scramble.runs.sandbox.mirror import ARITHMETIC, COMPARISONS, CONVERSIONS, SPECIAL, MirrorClass, is_mirror
from scramble.runs.sandbox.peer import OWN, GoneError, Peer
from scramble.runs.sandbox.plain import Decoder
from scramble.runs.sandbox.program import is_offered

_HIDDEN = {"unittest", "pytest", "_pytest", "test", "runs", "scramble", *OWN}  # not to be named by a program
_OPEN = {
    *OWN,
    "unittest.mock",
    "_io",
    "queue",
    "_queue",
    "random",
}  # a program may read their public attributes
_DESCRIBED = ("__name__", "__qualname__", "__doc__", "__module__")
_PATCHED = {name: getattr(builtins, name) for name in ("input", "print", "open")}


class Judge(Peer):
    """The tests' end."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self.raised: list[BaseException] = []  # by the program
        self.trusted: set[MirrorClass] = set()  # classes whose objects have arithmetic with data
        self._made: set[int] = set()  # mirrors of objects that the tests made
        self._derived: set[int] = set()  # mirrors of what came from arithmetic with data

    def ask(self, what: str, *values: Any) -> Any:
        """As `Peer.ask`. Streams and `input` that the tests have replaced hold for the program too."""
        patched = {
            name: getattr(builtins, name)
            for name in _PATCHED
            if getattr(builtins, name) is not _PATCHED[name]
        }
        for name in ("stdin", "stdout", "stderr"):
            if getattr(sys, name) is not getattr(sys, f"__{name}__"):
                patched[name] = getattr(sys, name)
        try:
            return super().ask("with", patched, what, *values) if patched else super().ask(what, *values)
        except GoneError:
            os._exit(1)
        except BaseException as error:
            self.raised.append(error)
            raise

    def construct(self, cls: MirrorClass, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        found = super().construct(cls, arguments, named)
        if is_mirror(found) and cls in self.trusted:
            self._made.add(id(found))
        return found

    def special(self, mirror: Any, name: str, arguments: tuple[Any, ...]) -> Any:
        with_data = not (arguments and is_mirror(arguments[0]))
        if name in COMPARISONS and with_data:
            if not issubclass(mirror.__class__, list | dict | set | bytearray):
                return NotImplemented
            return getattr(self.ask("contents", mirror), name)(arguments[0])
        if name == "__contains__" and with_data and id(mirror) not in self._made:
            return any(one is arguments[0] or one == arguments[0] for one in mirror)
        if name in CONVERSIONS and id(mirror) in self._derived:
            raise TypeError(f"{name} of what came from arithmetic of a program's object with data")
        arithmetic = name in ARITHMETIC and with_data
        if arithmetic and id(mirror) not in self._made | self._derived:
            return NotImplemented
        found = super().special(mirror, name, arguments)
        if name == "__exit__":
            return bool(found) and _is_raised_by_tests(arguments[1])
        if arithmetic and found is not NotImplemented:
            if not is_mirror(found):
                raise TypeError(f"{name} of a program's object with data gave data")
            self._derived.add(id(found))
        return found

    def _value(self, decoder: Decoder, node: list[Any]) -> Any:
        found = super()._value(decoder, node)
        self._made.discard(id(found))
        return found

    def module(self, name: str) -> Any:
        """The library's own; None where there is none, or it is not to be had."""
        try:
            return None if name.partition(".")[0] in _HIDDEN else import_module(name)
        except ImportError:
            return None

    def named(self, module: str, name: str) -> Any:
        found = super().named(module, name)
        if not is_offered(found):
            raise GoneError
        return found

    def known(self, module: str, name: str) -> type | None:
        library = module.partition(".")[0]
        if library in _HIDDEN or (library not in sys.stdlib_module_names and library not in sys.modules):
            return None
        return super().known(module, name)

    def carry_out(self, what: str, target: Any, *values: Any) -> Any:
        if what in ("get", "set", "delete"):
            if not _is_open(what, target, values[0]):
                raise AttributeError(f"{type(target).__name__!r} object has no {values[0]!r} for a program")
        elif what not in ("call", "special", "contents", "item", "members") or (
            what == "special" and values[0] not in SPECIAL
        ):
            raise TypeError(f"{what}: not for a program")
        return super().carry_out(what, target, *values)


def _is_open(what: str, target: Any, name: str) -> bool:
    """Whether the program may read or change an attribute of what it was given."""
    owner = target if isinstance(target, type) else type(target)
    if what == "get":
        return name in _DESCRIBED or (owner.__module__ in _OPEN and not name.startswith("_"))
    method = callable(getattr(owner, name, None))
    return owner is not target and owner.__module__ in OWN and not name.startswith("_") and not method


def _is_raised_by_tests(error: BaseException | None) -> bool:
    """Whether a `raise` of the tests, not a failed assertion, is where an exception comes from."""
    trace = error.__traceback__ if error is not None else None
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or isinstance(error, AssertionError):
        return False
    code = trace.tb_frame.f_code
    return code.co_filename == "<tests>" and dis.opname[code.co_code[trace.tb_lasti]] == "RAISE_VARARGS"


class _Names(dict[str, Any]):
    """The names that the tests see: their own, then the program's, then what is built in."""

    judge: Judge
    later: frozenset[str]  # asked for at each use

    def __missing__(self, name: str) -> Any:
        if name not in self.later and (hasattr(builtins, name) or name.startswith("__")):
            raise KeyError(name)
        found = self.judge.ask("name", name)
        if type(found) is MirrorClass:
            self.judge.trusted.discard(found)  # it has this name too, since later
        return found


class _Main(types.ModuleType):
    """The module of the tests, and the program's: `from solution import f` works."""

    def __init__(self, names: _Names) -> None:
        super().__init__("__main__")
        object.__setattr__(self, "_names", names)

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        return object.__getattribute__(self, "_names")

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__[name]
        except KeyError:
            raise AttributeError(f"module '__main__' has no attribute {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self.__dict__[name] = value
        self._names.judge.ask("set name", name, value)

    def __dir__(self) -> list[str]:
        return list(self.__dict__)


def run_tests(connection: socket.socket, preamble: str, tests: str) -> bool:
    """Whether the tests run to their end, or end themselves with success as `unittest.main` does.

    Ends the process if the program's process ends.
    """
    judge, names = Judge(connection), _Names(__name__="__main__", __builtins__=builtins)
    names.judge, names.later = judge, frozenset()
    sys.modules["__main__"] = sys.modules["solution"] = _Main(names)
    sys.argv[:] = ["tests.py"]
    try:
        code = compile(tests, "<tests>", "exec", dont_inherit=True)
        exec(compile(preamble, "<preamble>", "exec", dont_inherit=True), names)
        found, later = judge.ask("begin", None)
        names.update(found)
        classes = {one for one in found.values() if type(one) is MirrorClass}
        lower = {one for name, one in found.items() if type(one) is MirrorClass and not name[:1].isupper()}
        judge.trusted = classes - lower
        names.later = frozenset(later)
        for name in names.keys() & names.later:  # of the preamble, set anew
            del names[name]
        exec(code, names)
    except SystemExit as end:
        return end.code in (None, 0, False) and not any(end is one for one in judge.raised)
    except BaseException:  # whatever a test raises
        return False
    return True
