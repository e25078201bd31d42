"""Mirrors: what stands in one process for an object or a class of the other.

A mirror has a class whose bases mirror the bases there, so that `isinstance`, `except` and `type(x)` work.
Special methods and attributes are asked for over there. An instance of a subclass of an immutable type (a
named tuple, an IntEnum, an exception) is one here too, with the same data.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CoroutineType
from typing import Any, Protocol


class Asked(Protocol):
    """The other end of the connection: it has the objects that mirrors stand for."""

    def ask(self, verb: str, *arguments: Any) -> Any: ...
    def construct(self, cls: Any, arguments: Any, named: Any) -> Any: ...
    def special(self, mirror: Any, name: str, arguments: Any) -> Any: ...


# Immutable types and how their data comes out of an instance of a subclass, whatever that overrides.
PLAIN: dict[type, Callable[[Any], Any]] = {
    int: int.__int__,
    float: float.__float__,
    complex: complex.__complex__,
    str: str.__str__,
    bytes: lambda value: bytes.__getitem__(value, slice(None)),
    tuple: lambda value: tuple.__getitem__(value, slice(None)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
}
_BINARY = ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "divmod", "pow")
_BITS = ("lshift", "rshift", "and", "xor", "or")
COMPARISONS = {f"__{name}__" for name in ("eq", "ne", "lt", "le", "gt", "ge")}
ARITHMETIC = {f"__{sign}{name}__" for name in (*_BINARY, *_BITS) for sign in ("", "r", "i")} - {"__idivmod__"}
CONVERSIONS = {
    *("__abs__", "__bool__", "__int__", "__float__", "__complex__", "__index__", "__round__", "__trunc__"),
    *("__floor__", "__ceil__", "__neg__", "__pos__", "__invert__", "__len__"),
}
SPECIAL = sorted(
    {
        *(
            *COMPARISONS,
            *ARITHMETIC,
            *CONVERSIONS,
            "__hash__",
            "__str__",
            "__repr__",
            "__format__",
            "__bytes__",
        ),
        *(
            "__fspath__",
            "__call__",
            "__iter__",
            "__next__",
            "__reversed__",
            "__length_hint__",
            "__contains__",
        ),
        *("__getitem__", "__setitem__", "__delitem__", "__enter__", "__exit__", "__copy__", "__deepcopy__"),
        *("__get__", "__set__", "__delete__", "__set_name__", "__aenter__", "__aexit__", "__aiter__"),
        "__anext__",
    }
)
# What may be read of an object although it has a special name.
_READABLE = {
    *("__name__", "__qualname__", "__doc__", "__module__", "__dict__", "__wrapped__", "__annotations__"),
    *("__defaults__", "__kwdefaults__", "__members__", "__slots__", "__self__", "__func__", "__match_args__"),
    *("__abstractmethods__", "__cause__", "__context__", "__version__", "__all__", "__file__", "__array__"),
    *("__origin__", "__args__", "__mro__", "__code__", "__init__", *SPECIAL),
}


class MirrorClass(type):
    """The class of mirrors' classes. What is asked of a class is asked over there."""

    _mirrors: Mirrors
    _class_handle: int

    def __new__(cls, name: str, bases: tuple[type, ...], _: dict[str, Any]) -> MirrorClass:
        raise TypeError(f"{name}: a class of the other process has no subclasses here")

    def __call__(cls, *arguments: Any, **named: Any) -> Any:
        return cls._mirrors.peer.construct(cls, arguments, named)

    def __getattr__(cls, name: str) -> Any:
        return cls._mirrors.get(cls, name)

    def __setattr__(cls, name: str, value: Any) -> None:
        cls._mirrors.peer.ask("set", cls, name, value)

    def __delattr__(cls, name: str) -> None:
        cls._mirrors.peer.ask("delete", cls, name)

    def __getitem__(cls, key: Any) -> Any:
        return cls._mirrors.peer.ask("item", cls, key)

    def __iter__(cls) -> Any:
        return iter(cls._mirrors.peer.ask("members", cls))

    def __len__(cls) -> int:
        return len(cls._mirrors.peer.ask("members", cls))

    def __bool__(cls) -> bool:
        return True


class Mirrored:
    """The last base of all mirrors' classes."""

    _mirrors: Mirrors
    _object_handle: int

    def __getattr__(self, name: str) -> Any:
        return self._mirrors.get(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._mirrors.peer.ask("set", self, name, value)

    def __delattr__(self, name: str) -> None:
        self._mirrors.peer.ask("delete", self, name)

    def __copy__(self) -> Any:
        return self._mirrors.peer.ask("special", self, "__copy__", ())

    def __deepcopy__(self, _: Any) -> Any:
        return self._mirrors.peer.ask("special", self, "__deepcopy__", ())

    __dict__ = property(lambda self: self._mirrors.get(self, "__dict__"))


class Mirrors:
    """All mirrors of one process; the same object has the same mirror."""

    def __init__(self, peer: Asked) -> None:
        self.peer = peer
        self.classes: dict[int, MirrorClass] = {}
        self._objects: dict[int, Any] = {}
        self._coroutines: dict[int, tuple[Any, Any]] = {}  # by identity: itself and its mirror

    def handle_of(self, value: Any) -> int | None:
        """The other side's handle of a mirror; None for anything else."""
        if id(value) in self._coroutines:
            value = self._coroutines[id(value)][1]
        if type(value) is MirrorClass:
            return value._class_handle
        return object.__getattribute__(value, "_object_handle") if is_mirror(value) else None

    def get(self, mirror: Any, name: str) -> Any:
        """An attribute that is not here."""
        if name.startswith("__") and name not in _READABLE:
            raise AttributeError(f"{type(mirror).__name__!r} object has no attribute {name!r} here")
        return self.peer.ask("get", mirror, name)

    def of_class(
        self, handle: int, names: list[str | None], bases: list[Any], special: list[str], known: type | None
    ) -> MirrorClass:
        """Make the mirror of a class.

        Args:
            names: `__name__`, `__qualname__`, `__module__`, `__doc__`.
            bases: mirrors, and classes that both sides have.
            special: the special methods that it defines.
            known: what an instance is here, for `isinstance`.
        """
        real = [
            one for one in bases if isinstance(one, MirrorClass) or issubclass(one, (BaseException, *PLAIN))
        ]
        rest = () if any(issubclass(one, Mirrored) for one in real) else (Mirrored,)
        left_out: set[str] = set()
        if any(issubclass(one, tuple(PLAIN)) for one in real):
            left_out = {*COMPARISONS, *ARITHMETIC, *CONVERSIONS, "__contains__", "__hash__"}
        name, qualname, module, documentation = names
        content: dict[str, Any] = {
            one: _forward(one)
            for one in set(special) & set(SPECIAL) - left_out - {"__copy__", "__deepcopy__"}
        }
        content |= {"__qualname__": qualname, "__module__": module, "__doc__": _Documentation(documentation)}
        content |= {"_mirrors": self, "_class_handle": handle}
        if known is not None:
            content["__class__"] = property(lambda self: known)
        try:
            made = type.__new__(MirrorClass, str(name), (*real, *rest), content)
        except TypeError:  # bases that cannot be joined here
            made = type.__new__(MirrorClass, str(name), (Mirrored,), content)
        self.classes[handle] = made
        return made

    def of_object(self, handle: int, cls: type, view: list[Any] | None) -> Any:
        """The mirror of an object, or a new exception of a class that both sides have.

        Args:
            view: its data as an instance of an immutable type; of an exception, its arguments and attributes.
        """
        if handle in self._objects:
            return self._objects[handle]
        made: Any
        if issubclass(cls, BaseException):
            arguments, attributes = view or ((), ())
            made = cls.__new__(cls, *arguments)
            made.args = arguments
            if not isinstance(cls, MirrorClass):
                vars(made).update(attributes)
                return made
        elif base := next((one for one in PLAIN if issubclass(cls, one)), None):
            made = base.__new__(cls, *(view or ()))
        else:
            made = object.__new__(cls)
        object.__setattr__(made, "_object_handle", handle)
        if made.__class__ is CoroutineType:
            coroutine = _run(made)
            self._coroutines[id(coroutine)] = coroutine, made
            made = coroutine
        self._objects[handle] = made
        return made


class _Documentation:
    """`__doc__` of a class is here; of an object of it, over there."""

    def __init__(self, text: str | None) -> None:
        self._text = text

    def __get__(self, mirror: Any, _: type) -> Any:
        return self._text if mirror is None else mirror._mirrors.get(mirror, "__doc__")


def is_mirror(value: Any) -> bool:
    """Whether it stands for something of the other process."""
    return type(type(value)) is MirrorClass or type(value) is MirrorClass


async def _run(mirror: Any) -> Any:
    return mirror._mirrors.peer.ask("run", mirror)


def _forward(name: str) -> Callable[..., Any]:
    def method(self: Any, *arguments: Any, **named: Any) -> Any:
        if name == "__call__":
            return self._mirrors.peer.ask("call", self, arguments, named)
        return self._mirrors.peer.special(self, name, arguments)

    method.__name__ = name
    return method
