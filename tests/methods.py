"""Signatures of other libraries' methods beside what `Method` says of them."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import transformers

from scramble.internals.method import Method


def owner(method: Method) -> Any:
    """The class that a method is said to be of."""
    module, _, name = method.owner.rpartition(".")
    return getattr(__import__(module, fromlist=[name]), name)


def lack(method: Method) -> str | None:
    """What is otherwise than `Method` says; None if nothing is."""
    kind = owner(method)
    if method.name not in vars(kind):
        return f"{kind.__name__} does not define {method.name}"
    _, *found = inspect.signature(vars(kind)[method.name]).parameters.values()
    names = tuple(one.name for one in found)
    if names[: len(method.parameters)] != method.parameters:
        return f"{method.name} has the parameters {names}"
    asked = [one.name for one in found[len(method.parameters) :] if one.default is one.empty]
    return f"{method.name} also wants {asked}" if asked else None


def refusal(method: Method, override: Any) -> str | None:
    """Why an override could not be called as the method is, by place or by name; None if it can."""
    names = list(inspect.signature(vars(owner(method))[method.name]).parameters)[1:]
    try:
        inspect.signature(override).bind(None, *names)
        inspect.signature(override).bind(None, **{name: name for name in names})
    except TypeError as error:
        return str(error)
    return None


FOREIGN = (torch.__name__, transformers.__name__, "trl")


def overrides(kind: type) -> set[str]:
    """Names that a class defines and that a class of another library, from which it comes, has too."""
    bases = [base for base in kind.__mro__[1:] if base.__module__.split(".")[0] in FOREIGN]
    return {
        name for name in vars(kind) if not name.startswith("__") and any(name in vars(base) for base in bases)
    }
