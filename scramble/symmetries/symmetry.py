"""What a symmetry is: a group, the axis that it acts on, and what forbids it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from scramble.architecture import Architecture, Constraint
from scramble.symmetries.elements import Element


class Symmetry(BaseModel, ABC):
    """A choice of group. Fields are its options, as typed after `NAME:` on the command line."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ClassVar[str]
    axes: ClassVar[tuple[str, ...]]
    """Where it may act; a layer must carry at least one of them."""
    whole: ClassVar[bool] = False
    """Whether it acts on the whole model at once, not in a layer."""
    relabels: ClassVar[bool] = True
    """Whether a weight may leave its place, or mix with others."""
    equal_gains: ClassVar[str | None] = None
    """An axis whose gains must be equal over channels, as they are on a folded base."""
    forbidding: ClassVar[Mapping[str, str]] = {}
    """Constraint kind to the reason why it forbids this group on its axes."""

    def forbidden(self, architecture: Architecture, layer: int | None) -> str | None:
        """Why a layer does not have the symmetry.

        Args:
            architecture: of the checkpoint.
            layer: the number of a layer; None for the whole model.

        Returns:
            A reason, or None if it has the symmetry.
        """
        if not self.carried(architecture, layer):
            return f"{'the model' if layer is None else 'the layer'} has no axis {' or '.join(self.axes)}"
        for constraint in self.constraints(architecture, layer):
            if constraint.kind in self.forbidding:
                return f"{constraint.note}: {self.forbidding[constraint.kind]}"
        return self.trivial(architecture, layer)

    def carried(self, architecture: Architecture, layer: int | None) -> list[str]:
        """Those of its axes that some tensor carries.

        Args:
            architecture: of the checkpoint.
            layer: the number of a layer; None for the whole model.

        Returns:
            Names of axes.
        """
        slots = architecture.slots(layer).values()
        return [axis for axis in self.axes if any(slot.carries(axis) for slot in slots)]

    def constraints(self, architecture: Architecture, layer: int | None) -> list[Constraint]:
        """What sits on the axes of this symmetry.

        Args:
            architecture: of the checkpoint.
            layer: the number of a layer; None for the whole model.

        Returns:
            Gains, clamps and the like, each with its axis and a note.
        """
        return [one for one in architecture.constraints(layer) if one.axis in self.axes]

    def trivial(self, architecture: Architecture, layer: int | None) -> str | None:
        """Why these options choose nothing but the identity, or a group that is not there.

        Args:
            architecture: of the checkpoint.
            layer: the number of a layer; None for the whole model.

        Returns:
            A reason, or None if there is something to draw.
        """
        return None

    @abstractmethod
    def group(self, architecture: Architecture, layer: int | None) -> str:
        """The name of the group of a layer.

        Args:
            architecture: of the checkpoint.
            layer: the number of a layer; None for the whole model.

        Returns:
            As the manifest says it, `O(64)^3` for one.
        """

    @abstractmethod
    def draw(self, architecture: Architecture, seed: int, layer: int | None) -> tuple[Element, ...]:
        """Draw an element of the group.

        Args:
            architecture: of the checkpoint.
            seed: names the draw; the same (seed, symmetry, layer, head) draws the same element.
            layer: the number of a layer; None for the whole model.

        Returns:
            The factors of the element, in the order in which they act.
        """
