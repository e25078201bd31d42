"""The process of the program: it runs it as `python solution.py` does, then does what the tests ask of it."""

from __future__ import annotations

import builtins
import contextlib
import os
import socket
import sys
import types
from pathlib import Path
from typing import Any

from scramble.runs.sandbox.peer import Peer, shared_path
from scramble.runs.sandbox.plain import is_plain

# `unittest.SkipTest` of a program must skip no test.
_LIBRARY = sys.stdlib_module_names - {"unittest", "test"}


class ProgramPeer(Peer):
    """The program's end."""

    def __init__(self, connection: socket.socket, names: dict[str, Any], before: dict[str, Any]) -> None:
        super().__init__(connection)
        self._names, self._before = names, before

    def path(self, value: Any) -> tuple[str, str] | None:
        return shared_path(value) if is_offered(value) else None

    def carry_out(self, what: str, target: Any, *values: Any) -> Any:
        match what:
            case "begin":
                return self._begin()
            case "name":
                return self._names[target]
            case "set name":
                self._names[target] = values[0]
                return None
            case "with":
                return self._with(target, *values)
        return super().carry_out(what, target, *values)

    def _begin(self) -> tuple[dict[str, Any], list[str]]:
        """What the program has defined, and the names of data, which may change, and of modules."""
        names = {
            name: value
            for name, value in self._names.items()
            if not name.startswith("__") and (name not in self._before or self._before[name] is not value)
        }
        later = [name for name, one in names.items() if is_plain(type(one)) or type(one) is types.ModuleType]
        return {name: value for name, value in names.items() if name not in later}, later

    def _with(self, patched: dict[str, Any], what: str, *values: Any) -> Any:
        """Carry out what is asked with the tests' standard streams and input."""
        with contextlib.ExitStack() as stack:
            for name, value in patched.items():
                owner = builtins if hasattr(builtins, name) else sys
                stack.callback(setattr, owner, name, getattr(owner, name))
                setattr(owner, name, value)
            return self.carry_out(what, *values)


def is_offered(value: Any) -> bool:
    """Whether the tests take a class by its name: built in, of plain data, or a library's exception."""
    return isinstance(value, type) and (
        value.__module__ == "builtins"
        or is_plain(value)
        or (issubclass(value, BaseException) and value.__module__.partition(".")[0] in _LIBRARY)
    )


def run_program(connection: socket.socket, path: Path, preamble: str, name: str) -> None:
    """Run the preamble and the file as one module, and serve. Ends the process."""
    module = types.ModuleType(name)
    names = vars(module)
    names.update({"__file__": str(path), "__builtins__": builtins, "__cached__": None})
    sys.modules[name] = module
    sys.argv[:] = [str(path)]
    sys.path.insert(0, str(path.parent))
    try:
        code = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
        exec(compile(preamble, "<preamble>", "exec", dont_inherit=True), names)
        before = dict(names)
        exec(code, names)
        ProgramPeer(connection, names, before).serve()
    except BaseException:  # whatever ends a program, or the tests have ended
        os._exit(1)
