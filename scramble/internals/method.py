"""Methods of other libraries' classes that are overridden or called although they are not documented."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """A method and what is relied on.

    Attributes:
        owner: the class that defines it, by module and name.
        name: of the method.
        parameters: those after `self` that are given or taken, in their order. Others may follow if they have
            defaults.
        overridden: whether the library must call what stands in its place; else it is only called by us.
        reason: what it is overridden or called for.
    """

    owner: str
    name: str
    parameters: tuple[str, ...]
    overridden: bool
    reason: str
