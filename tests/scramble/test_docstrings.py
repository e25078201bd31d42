"""Every public name says what it takes, what it returns and what it raises, as griffe reads it."""

from __future__ import annotations

import inspect

import griffe
import pytest

import scramble
from scramble import errors

NAMES = [name for name in scramble.__all__ if name != "__version__"]
FUNCTIONS = [name for name in NAMES if inspect.isfunction(getattr(scramble, name))]
CLASSES = [name for name in NAMES if inspect.isclass(getattr(scramble, name))]


def _members() -> dict[str, griffe.Function]:
    """Public functions, and the public methods that public classes define."""
    package = griffe.load("scramble", docstring_parser="google")
    found = {}
    for name in NAMES:
        bases = getattr(scramble, name).__mro__[1:] if name in CLASSES else ()
        one = package[getattr(scramble, name).__module__.removeprefix("scramble.") + "." + name]
        members = [one] if one.is_function else one.members.values()
        found |= {
            f"{name}.{each.name}".removesuffix(f".{name}"): each
            for each in members
            if each.is_function
            and not each.name.startswith("_")
            and not any(hasattr(base, each.name) for base in bases)  # whose docstring it has
        }
    return {name: one for name, one in found.items() if isinstance(one, griffe.Function)}


MEMBERS = _members()


def _section(one: griffe.Function, kind: str) -> list[griffe.DocstringElement]:
    parts = one.docstring.parse("google", warnings=False) if one.docstring else []
    return [element for part in parts if part.kind.value == kind for element in part.value]


@pytest.mark.parametrize("name", MEMBERS)
def test_every_argument_is_described(name: str) -> None:
    one = MEMBERS[name]
    taken = [each.name for each in one.parameters if each.name not in ("self", "cls")]
    described = [element.name for element in _section(one, "parameters")]
    assert one.docstring, "no docstring"
    assert [each.lstrip("*") for each in described] == taken


@pytest.mark.parametrize("name", MEMBERS)
def test_what_is_returned_is_described(name: str) -> None:
    """The one line of a method without arguments says it."""
    one = MEMBERS[name]
    if name in FUNCTIONS or len(one.parameters) > 1:
        assert _section(one, "returns")


@pytest.mark.parametrize("name", MEMBERS)
def test_what_is_raised_is_an_error_of_ours(name: str) -> None:
    for element in _section(MEMBERS[name], "raises"):
        assert issubclass(getattr(errors, str(element.annotation)), scramble.ScrambleError)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_says_what_it_raises(name: str) -> None:
    assert _section(MEMBERS[name], "raises")


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_says_what_it_is(name: str) -> None:
    assert inspect.getdoc(getattr(scramble, name))
