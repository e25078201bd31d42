"""What a symmetry is: a group, the axis that it acts on, and what forbids it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from scramble.families import Architecture, Constraint
from scramble.symmetries.elements import Element


class Symmetry(BaseModel, ABC):
    """A choice of group. Fields are its options, as typed after `NAME:` on the command line."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ClassVar[str]
    axes: ClassVar[tuple[str, ...]]
    forbidding: ClassVar[Mapping[str, str]] = {}
    """Constraint kind to the reason why it forbids this group on its axes."""

    def forbidden(self, architecture: Architecture, layer: int) -> str | None:
        """Why this layer does not have the symmetry, or None if it has."""
        carried = set().union(*(layout.axes for layout in architecture.layer_layouts(layer).values()))
        if missing := set(self.axes) - carried:
            return f"the layer has no axis {', '.join(sorted(missing))}"
        for constraint in self.constraints(architecture, layer):
            if constraint.kind in self.forbidding:
                return f"{constraint.note}: {self.forbidding[constraint.kind]}"
        return self.trivial(architecture, layer)

    def constraints(self, architecture: Architecture, layer: int) -> list[Constraint]:
        """What sits on this symmetry's axes in a layer."""
        return [one for one in architecture.constraints(layer) if one.axis in self.axes]

    def trivial(self, architecture: Architecture, layer: int) -> str | None:
        """Why these options choose nothing but the identity here, or a group that is not there, or None."""
        return None

    @abstractmethod
    def group(self, architecture: Architecture, layer: int) -> str:
        """The group's name, for the manifest."""

    @abstractmethod
    def draw(self, architecture: Architecture, seed: int, layer: int) -> tuple[Element, ...]:
        """Draw an element; its factors are applied in order."""
