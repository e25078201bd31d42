"""Expert permutation: routed experts are permuted, with their rows of the router and its biases.

Where routing first chooses groups of experts (DeepSeek-V3), experts trade inside their group and whole groups
trade places.
"""

from typing import ClassVar

import numpy as np
from einops import rearrange

from scramble.architecture import Architecture
from scramble.symmetries.draws import generator, permutation
from scramble.symmetries.elements import Element, Permutation
from scramble.symmetries.symmetry import Symmetry


class ExpertPermutation(Symmetry):
    """A permutation of a layer's routed experts that keeps routing groups together, not the identity.

    Attributes:
        within: permute the experts inside each routing group (all experts, where there is one group).
        groups: permute whole groups.
    """

    within: bool = True
    groups: bool = True

    name: ClassVar[str] = "expert-permutation"
    axes: ClassVar[tuple[str, ...]] = ("expert",)

    def trivial(self, architecture: Architecture, layer: int | None) -> str | None:
        groups, size = self._shape(architecture, layer)
        if (self.within and size > 1) or (self.groups and groups > 1):
            return None
        return f"nothing to permute: {groups} routing group(s) of {size} expert(s)"

    def group(self, architecture: Architecture, layer: int | None) -> str:
        groups, size = self._shape(architecture, layer)
        factors = [f"S({size})" + f"^{groups}" * (groups > 1)] * self.within
        return " x ".join(factors + [f"S({groups})"] * (self.groups and groups > 1)) + ", none the identity"

    def draw(self, architecture: Architecture, seed: int, layer: int | None) -> tuple[Element, ...]:
        groups, size = self._shape(architecture, layer)
        experts = np.arange(groups * size, dtype=np.int64)
        drawn: np.ndarray = rearrange(experts, "(group expert) -> group expert", group=groups)
        if self.within and size > 1:
            for number, row in enumerate(drawn):
                row[:] = row[permutation(size, generator(seed, self.name, layer, "within", number))]
        if self.groups and groups > 1:
            drawn = drawn[permutation(groups, generator(seed, self.name, layer, "groups"))]
        return (Permutation("expert", (), rearrange(drawn, "group expert -> (group expert)")),)

    def _shape(self, architecture: Architecture, layer: int | None) -> tuple[int, int]:
        """How many routing groups, of how many experts."""
        counts = [one.groups for one in self.constraints(architecture, layer) if one.kind == "routing"]
        groups = counts[0] if counts else 1
        return groups, architecture.sizes_of(layer)["expert"] // groups
