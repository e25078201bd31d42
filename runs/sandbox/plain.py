"""Plain data as JSON: numbers, text, containers, values of the standard library. What is shared stays shared.

A message has nodes, `[kind, arguments, contents]`, and refers to them: a child is a scalar, `[n]` for node n,
or `[n, 0]` for what the peer sent as node n of the request that is answered. Kinds are exact types: an
instance of a subclass is an object with code, and no plain data.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, NamedTuple

Child = Any
_SCALARS = {type(None), bool, float, str}


class Kind(NamedTuple):
    """How a type is taken apart and put together.

    Attributes:
        make: from the arguments.
        arguments: what `make` needs.
        contents, fill: of what can be changed; `fill` replaces all contents.
    """

    make: Callable[..., Any]
    arguments: Callable[[Any], Iterable[Any]] = lambda value: ()
    contents: Callable[[Any], list[Any]] | None = None
    fill: Callable[[Any, list[Any]], None] | None = None


def _fill_list(value: Any, items: list[Any]) -> None:
    value[:] = items


def _fill_set(value: Any, items: list[Any]) -> None:
    value.clear()
    value.update(items)


def _fill_deque(value: Any, items: list[Any]) -> None:
    value.clear()
    value.extend(items)


def _fill_array_module(value: Any, items: list[Any]) -> None:
    del value[:]
    value.extend(items)


def _flat(value: dict[Any, Any]) -> list[Any]:
    return list(chain.from_iterable(value.items()))


def _fill_dict(value: Any, items: list[Any]) -> None:
    value.clear()
    for key, item in zip(items[::2], items[1::2], strict=True):
        value[key] = item


def _array(dtype: str, shape: tuple[int, ...]) -> Any:
    return importlib.import_module("numpy").empty(shape, dtype)


def _array_contents(value: Any) -> list[Any]:
    return list(value.flat) if value.dtype.hasobject else [value.tobytes()]


def _fill_array(value: Any, items: list[Any]) -> None:
    if value.dtype.hasobject:
        for place, item in enumerate(items):
            value.flat[place] = item
    else:
        value[...] = importlib.import_module("numpy").ndarray(value.shape, value.dtype, items[0])


def _numpy_scalar(dtype: str, data: bytes) -> Any:
    return importlib.import_module("numpy").ndarray((), dtype, data)[()]


def _library(path: str) -> Callable[..., Any]:
    return lambda *arguments: _class(path)(*arguments)


def _dictionary(path: str) -> Kind:
    return Kind(_library(path), contents=_flat, fill=_fill_dict)


_KINDS = {
    "builtins.complex": Kind(complex, lambda x: (x.real, x.imag)),
    "builtins.bytes": Kind(lambda text: text.encode("latin-1"), lambda x: (x.decode("latin-1"),)),
    "builtins.bytearray": Kind(bytearray, contents=list, fill=_fill_list),
    "builtins.range": Kind(range, lambda x: (x.start, x.stop, x.step)),
    "builtins.slice": Kind(slice, lambda x: (x.start, x.stop, x.step)),
    "builtins.ellipsis": Kind(lambda: ...),
    "builtins.NotImplementedType": Kind(lambda: NotImplemented),
    "builtins.tuple": Kind(lambda *items: items, lambda x: x),
    "builtins.frozenset": Kind(lambda *items: frozenset(items), lambda x: x),
    "builtins.list": Kind(list, contents=list, fill=_fill_list),
    "builtins.set": Kind(set, contents=list, fill=_fill_set),
    "builtins.dict": Kind(dict, contents=_flat, fill=_fill_dict),
    "builtins.dict_keys": Kind(lambda *items: dict.fromkeys(items).keys(), lambda x: x),
    "builtins.dict_values": Kind(lambda *items: dict(enumerate(items)).values(), lambda x: x),
    "builtins.dict_items": Kind(lambda *items: dict(items).items(), lambda x: x),
    "collections.Counter": _dictionary("collections.Counter"),
    "collections.OrderedDict": _dictionary("collections.OrderedDict"),
    "collections.defaultdict": Kind(
        _library("collections.defaultdict"), lambda x: (x.default_factory,), _flat, _fill_dict
    ),
    "collections.deque": Kind(
        lambda longest: _class("collections.deque")((), longest), lambda x: (x.maxlen,), list, _fill_deque
    ),
    "array.array": Kind(_library("array.array"), lambda x: (x.typecode,), list, _fill_array_module),
    "fractions.Fraction": Kind(_library("fractions.Fraction"), lambda x: (x.numerator, x.denominator)),
    "decimal.Decimal": Kind(_library("decimal.Decimal"), lambda x: (str(x),)),
    "uuid.UUID": Kind(_library("uuid.UUID"), lambda x: (str(x),)),
    "pathlib.PosixPath": Kind(_library("pathlib.PosixPath"), lambda x: (str(x),)),
    "pathlib.PurePosixPath": Kind(_library("pathlib.PurePosixPath"), lambda x: (str(x),)),
    "datetime.timedelta": Kind(_library("datetime.timedelta"), lambda x: (x.days, x.seconds, x.microseconds)),
    "datetime.timezone": Kind(_library("datetime.timezone"), lambda x: (x.utcoffset(None), x.tzname(None))),
    "datetime.date": Kind(_library("datetime.date"), lambda x: (x.year, x.month, x.day)),
    "datetime.time": Kind(
        _library("datetime.time"), lambda x: (x.hour, x.minute, x.second, x.microsecond, x.tzinfo)
    ),
    "datetime.datetime": Kind(
        _library("datetime.datetime"),
        lambda x: (x.year, x.month, x.day, x.hour, x.minute, x.second, x.microsecond, x.tzinfo),
    ),
    "numpy.ndarray": Kind(_array, lambda x: (x.dtype.str, x.shape), _array_contents, _fill_array),
    "numpy.generic": Kind(_numpy_scalar, lambda x: (x.dtype.str, x.tobytes())),
}
_SINGLE = {"ellipsis": type(...), "NotImplementedType": type(NotImplemented)}
_VIEWS = {"dict_keys": type({}.keys()), "dict_values": type({}.values()), "dict_items": type({}.items())}


def _class(path: str) -> Any:
    module, _, name = path.rpartition(".")
    if module == "builtins" and name in _SINGLE | _VIEWS:
        return (_SINGLE | _VIEWS)[name]
    return getattr(importlib.import_module(module), name)


def kind_of(cls: type) -> str | None:
    """The name of the kind of plain data that has exactly this type."""
    path = f"{cls.__module__}.{cls.__qualname__}"
    if path in _KINDS:
        return path if _class(path) is cls else None
    numpy = sys.modules.get("numpy")
    return (
        "numpy.generic"
        if numpy is not None and cls.__module__ == "numpy" and issubclass(cls, numpy.generic)
        else None
    )


def is_plain(cls: type) -> bool:
    """Whether what has exactly this type is plain data."""
    return cls in _SCALARS or cls is int or kind_of(cls) is not None


class Shared(NamedTuple):
    """What can be changed and came with a message: its node, itself, its kind and its contents then."""

    node: int
    value: Any
    kind: Kind
    before: list[Any]

    @property
    def changed(self) -> bool:
        now = self.contents()
        return len(now) != len(self.before) or not all(map(_same, now, self.before))

    def contents(self) -> list[Any]:
        return self.kind.contents(self.value) if self.kind.contents else []


def _same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is bytes and one == other)


class Encoder:
    """Builds the nodes of one message.

    Args:
        other: the node of what is no plain data.
        known: nodes of the request that is answered, by the identity of what they are here.
    """

    def __init__(
        self, other: Callable[[Encoder, Any], list[Any]], known: dict[int, int] | None = None
    ) -> None:
        self.nodes: list[Any] = []
        self.values: list[Any] = []  # one a node; keeps identities from being used again
        self.shared: list[tuple[int, Any, Kind]] = []
        self.described: list[int] = []  # handles of the classes that the message describes, see `peer`
        self.classes: dict[int, Child] = {}  # by identity
        self._other, self._known, self._index = other, known or {}, dict[int, int]()

    def put(self, value: Any) -> Child:
        """The child for a value."""
        cls = type(value)
        if cls in _SCALARS:
            return value
        if cls is int:
            return value if -(1 << 62) < value < 1 << 62 else self.add(None, ["int", hex(value)])
        if id(value) in self._known:
            return [self._known[id(value)], 0]
        if id(value) in self._index:
            return [self._index[id(value)]]
        name = kind_of(cls)
        if name is None:
            return self.add(value, self._other(self, value))
        kind = _KINDS[name]
        if kind.contents is None:
            return self.add(value, [name, [self.put(one) for one in kind.arguments(value)]])
        node: list[Any] = [name, [self.put(one) for one in kind.arguments(value)], None]
        child = self.add(value, node)
        node[2] = [self.put(one) for one in kind.contents(value)]
        self.shared.append((child[0], value, kind))
        return child

    def add(self, value: Any, node: list[Any]) -> list[int]:
        """The child for a node; a value that is not None is the node's from now on."""
        self.nodes.append(node)
        self.values.append(value)
        if value is not None:
            self._index[id(value)] = len(self.nodes) - 1
        return [len(self.nodes) - 1]


class Decoder:
    """Reads the nodes of one message.

    Args:
        other: what a node is that is no plain data.
        sent: the values of the nodes of the request that this message answers.
    """

    def __init__(
        self, nodes: list[Any], other: Callable[[Decoder, list[Any]], Any], sent: list[Any] | None = None
    ) -> None:
        self.values: list[Any] = []
        self.shared: list[Shared] = []
        self._sent = sent or []
        filled = []
        for node in nodes:
            kind = _KINDS.get(node[0])
            if node[0] == "int":
                self.values.append(int(node[1], 16))
            elif kind is None:
                self.values.append(other(self, node))
            else:
                self.values.append(kind.make(*[self.get(one) for one in node[1]]))
                if kind.fill is not None:
                    filled.append((len(self.values) - 1, kind, node[2]))
        for number, kind, contents in filled:
            items = [self.get(one) for one in contents]
            if kind.fill is not None:
                kind.fill(self.values[number], items)
        self.shared = [
            Shared(number, self.values[number], kind, kind.contents(self.values[number]))
            for number, kind, _ in filled
            if kind.contents is not None
        ]

    def get(self, child: Child) -> Any:
        """The value of a child."""
        if type(child) is not list:
            return child
        return self._sent[child[0]] if len(child) == 2 else self.values[child[0]]
