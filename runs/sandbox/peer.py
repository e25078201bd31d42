"""Two processes that use each other's objects. Calls and values go over a socket, objects stay.

Plain data (`plain`) is copied; what a call changes in it is changed on both sides. Anything else is an object
of one side and a mirror (`mirror`) on the other. One thread at a time speaks; a request may come while one
waits.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import types
from importlib import import_module
from typing import Any

from scramble.runs.sandbox.mirror import PLAIN, SPECIAL, MirrorClass, Mirrors
from scramble.runs.sandbox.plain import Child, Decoder, Encoder, Shared

OWN = ("__main__", "solution")  # modules whose classes are code of the program or of the tests
_CONTENTS: dict[type, Any] = {
    list: lambda value: list(list.__iter__(value)),
    dict: dict.copy,
    set: lambda value: set(set.__iter__(value)),
    bytearray: bytearray.copy,
}
_UNNAMED = {
    one.__name__: one
    for one in vars(types).values()
    if isinstance(one, type) and one.__module__ == "builtins"
}


class GoneError(BaseException):
    """The other process has ended, or sends what is no message."""


class Peer:
    """One end. It trusts the other: whatever is asked is done; see `judge` for the end that does not."""

    def __init__(self, connection: socket.socket) -> None:
        self._in, self._out = connection.makefile("rb"), connection
        self._lock = threading.RLock()
        self._objects: dict[int, Any] = {}  # by handle; what the other side knows stays
        self._handles: dict[int, int] = {}  # by identity
        self._described: set[int] = set()  # classes that the other side knows
        self.mirrors = Mirrors(self)

    # Requests

    def ask(self, what: str, *values: Any) -> Any:
        """The value of a request that the other side carries out; raises what that raised."""
        with self._lock:
            encoder = Encoder(self._node)
            self._send({"ask": what, "values": [encoder.put(one) for one in values]}, encoder)
            while "ask" in (message := self._receive()):
                self._answer(message)
            return self._read_answer(message, encoder)

    def construct(self, cls: MirrorClass, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """An instance of the other side's class."""
        return self.ask("call", cls, arguments, named)

    def special(self, mirror: Any, name: str, arguments: tuple[Any, ...]) -> Any:
        """What a special method of a mirror's object returns."""
        return self.ask("special", mirror, name, arguments)

    def path(self, value: Any) -> tuple[str, str] | None:
        """What the other side finds by its name."""
        return shared_path(value)

    def serve(self) -> None:
        """Carry out what the other side asks, until it has ended."""
        while True:
            self._answer(self._receive())

    def _read_answer(self, message: dict[str, Any], encoder: Encoder) -> Any:
        try:
            decoder = Decoder(message["nodes"], self._value, encoder.values)
            kinds = {number: (value, kind) for number, value, kind in encoder.shared}
            for number, children in message["changes"]:
                value, kind = kinds[number]
                if kind.fill is not None:
                    kind.fill(value, [decoder.get(one) for one in children])
            value, raised = decoder.get(message["value"]), bool(message["raised"])
        except Exception:  # what is no answer
            raise GoneError from None
        if raised:
            raise value
        return value

    def _answer(self, message: dict[str, Any]) -> None:
        raised = False
        try:
            decoder = Decoder(message["nodes"], self._value)
            values = [decoder.get(one) for one in message["values"]]
        except Exception:  # what is no request
            raise GoneError from None
        try:
            value = self.carry_out(message["ask"], *values)
        except GoneError:
            raise
        except BaseException as error:  # for the other side's caller
            value, raised = error, True
        known = {id(one.value): one.node for one in decoder.shared}
        try:
            encoder = Encoder(self._node, known)
            changes = [_change(one, encoder) for one in decoder.shared if one.changed]
            answer = {"value": encoder.put(value), "raised": raised, "changes": changes}
        except Exception as error:  # too deep, too large, or an object that does not let itself be looked at
            encoder = Encoder(self._node)
            failure = RuntimeError(f"{type(error).__name__}: what was returned cannot be sent")
            answer = {"value": encoder.put(failure), "raised": True, "changes": []}
        self._send(answer, encoder)

    def _send(self, message: dict[str, Any], encoder: Encoder) -> None:
        data = json.dumps({"nodes": encoder.nodes, **message}, separators=(",", ":"))
        try:
            self._out.sendall(data.encode() + b"\n")
        except OSError:
            raise GoneError from None
        self._described.update(encoder.described)

    def _receive(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self._in.readline()))
        except (ValueError, TypeError, OSError):
            raise GoneError from None

    # What is done for the other side

    def carry_out(self, what: str, target: Any, *values: Any) -> Any:
        match what:
            case "call":
                return target(*values[0], **values[1])
            case "get":
                return getattr(target, *values)
            case "set":
                return setattr(target, *values)
            case "delete":
                return delattr(target, *values)
            case "item":
                return target[values[0]]
            case "members":
                return list(target)
            case "special":
                name, arguments = values
                if name in ("__copy__", "__deepcopy__"):
                    return getattr(import_module("copy"), name.strip("_"))(target)
                return getattr(type(target), name)(target, *arguments)
            case "contents":
                return next(read(target) for base, read in _CONTENTS.items() if isinstance(target, base))
            case "run":
                return import_module("asyncio").run(target)
        raise TypeError(f"cannot {what}")

    # Objects and their mirrors

    def _handle(self, value: Any) -> int:
        if id(value) not in self._handles:
            self._handles[id(value)] = len(self._objects)
            self._objects[len(self._objects)] = value
        return self._handles[id(value)]

    def _node(self, encoder: Encoder, value: Any) -> list[Any]:
        """The node of what is no plain data."""
        cls = type(value)
        handle = self.mirrors.handle_of(value)
        if handle is not None:
            return ["yours", handle]
        if cls is types.TracebackType:
            return ["nothing"]
        if issubclass(cls, types.ModuleType) and value.__name__ not in OWN:
            return ["module", value.__name__]
        if (path := self.path(value)) is not None:
            return ["named", *path]
        if issubclass(cls, type):
            return self._class_node(encoder, value)
        view = None
        if issubclass(cls, BaseException):
            kept = tuple(one for one in vars(value).items() if not one[0].startswith("_"))
            view = [encoder.put(value.args), encoder.put(() if cls.__module__ in OWN else kept)]
        elif read := next((PLAIN[base] for base in PLAIN if issubclass(cls, base)), None):
            view = [encoder.put(read(value))]
        shared = issubclass(cls, BaseException) and self.path(cls) is not None
        return [
            "object",
            self._handle(value),
            encoder.put(cls) if shared else self._class(encoder, cls),
            view,
        ]

    def _class(self, encoder: Encoder, cls: type) -> Child:
        """The child for the class of an object, which has a mirror although both sides may have the class."""
        if id(cls) not in encoder.classes:
            encoder.classes[id(cls)] = encoder.add(None, self._class_node(encoder, cls))
        return encoder.classes[id(cls)]

    def _class_node(self, encoder: Encoder, cls: type) -> list[Any]:
        handle = self._handle(cls)
        if handle in self._described or handle in encoder.described:
            return ["class", handle]
        encoder.described.append(handle)
        above = (
            cls.__bases__ if cls.__module__ in OWN else [one for one in cls.__mro__[1:] if _has_data(one)][:1]
        )
        bases = [encoder.put(one) for one in above if one is not object]
        special = [name for name in SPECIAL if _defines(cls, name)]
        known = next([one.__module__, one.__qualname__] for one in cls.__mro__ if one.__module__ not in OWN)
        documentation = cls.__doc__ if type(cls.__doc__) is str else None
        names = [cls.__name__, cls.__qualname__, cls.__module__, documentation]
        return ["class", handle, names, bases, special, known]

    def _value(self, decoder: Decoder, node: list[Any]) -> Any:
        """What a node is that is no plain data."""
        match node:
            case ["yours", handle]:
                return self._objects[handle]
            case ["module", name]:
                return self.module(name)
            case ["named", module, name]:
                return self.named(module, name)
            case ["nothing"]:
                return None
            case ["class", handle]:
                return self.mirrors.classes[handle]
            case ["class", handle, names, bases, special, known]:
                return self.mirrors.of_class(
                    handle, names, [decoder.get(one) for one in bases], special, self.known(*known)
                )
            case ["object", handle, cls, view]:
                values = view and [decoder.get(one) for one in view]
                return self.mirrors.of_object(handle, decoder.get(cls), values)
        raise GoneError

    def module(self, name: str) -> Any:
        return import_module(name)

    def named(self, module: str, name: str) -> Any:
        return _find(module, name)

    def known(self, module: str, name: str) -> type | None:
        """The class here that has this name, for `isinstance`; None for `object`, or if it is not here."""
        if module == "builtins" and name in _UNNAMED:
            return _UNNAMED[name]
        try:
            found = _find(module, name)
        except (ImportError, AttributeError):
            return None
        return found if isinstance(found, type) and found is not object else None


def _change(shared: Shared, encoder: Encoder) -> list[Any]:
    return [shared.node, [encoder.put(one) for one in shared.contents()]]


def _find(module: str, name: str) -> Any:
    found: Any = import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _has_data(cls: type) -> bool:
    return cls in PLAIN or (issubclass(cls, BaseException) and cls.__module__ == "builtins")


def _defines(cls: type, name: str) -> bool:
    """Whether a class has a special method beside those of all objects and of immutable types."""
    method = getattr(cls, name, None)
    return method is not None and all(
        getattr(base, name, None) is not method for base in (object, BaseException, *PLAIN)
    )


def shared_path(value: Any) -> tuple[str, str] | None:
    """Module and name of a class or a function that comes from a library."""
    if type(value) is types.MethodDescriptorType:
        module = value.__objclass__.__module__
    elif type(value) in (types.FunctionType, types.BuiltinFunctionType) or issubclass(type(value), type):
        module = value.__module__
    else:
        return None
    if type(module) is not str or module in OWN or type(value) is MirrorClass:
        return None
    found: Any = sys.modules.get(module)
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    return (module, value.__qualname__) if found is value else None
