"""Symmetries of the residual stream: every tensor of the model that reads or writes it changes alike.

RMSNorm without gains commutes with every orthogonal matrix, so on a *folded* base (`scramble.fold`: gains
moved into the weights that read them) the whole stream rotates (Elhage et al. 2021, "privileged bases";
Ashkboos et al. 2024, SliceGPT, section 3). Permutations need no folding.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

from scramble.architecture import Architecture
from scramble.symmetries.draws import generator, haar, hadamard, no_hadamard, permutation
from scramble.symmetries.elements import Element, Permutation, Rotation, SignedPermutation
from scramble.symmetries.symmetry import Symmetry


class ResidualPermutation(Symmetry):
    """One permutation of the channels of the residual stream, not the identity.

    Attributes:
        signs: flip the sign of about a half of the channels too.
    """

    signs: bool = False

    name: ClassVar[str] = "residual-permutation"
    axes: ClassVar[tuple[str, ...]] = ("hidden",)
    whole: ClassVar[bool] = True

    def trivial(self, architecture: Architecture, layer: int | None) -> str | None:
        kinds = {one.kind: one.note for one in self.constraints(architecture, layer)}
        if self.signs and "layer_norm" in kinds:
            return (
                f"{kinds['layer_norm']}: the mean over channels, which they subtract, does not follow a sign"
            )
        return None

    def group(self, architecture: Architecture, layer: int | None) -> str:
        return f"{'B' if self.signs else 'S'}({architecture.sizes['hidden']}), not the identity"

    def draw(self, architecture: Architecture, seed: int, layer: int | None) -> tuple[Element, ...]:
        drawn = permutation(architecture.sizes["hidden"], generator(seed, self.name, layer))
        if self.signs:
            signs = generator(seed, self.name, layer, "signs").choice([-1, 1], drawn.shape)
            return (SignedPermutation("hidden", (), (drawn + 1) * signs),)
        return (Permutation("hidden", (), drawn),)


class ResidualRotation(Symmetry):
    """One orthogonal matrix on the residual stream, on a folded base.

    Attributes:
        method: `haar`, or `hadamard` (randomized; a hidden size that is a power of two).
    """

    method: Literal["haar", "hadamard"] = "haar"

    name: ClassVar[str] = "residual-rotation"
    axes: ClassVar[tuple[str, ...]] = ("hidden",)
    whole: ClassVar[bool] = True
    equal_gains: ClassVar[str] = "hidden"
    forbidding: ClassVar[Mapping[str, str]] = {
        "layer_norm": "it subtracts the mean over channels, which commutes with no rotation of them",
        "post_norm": "its weights act before the residual sum, where no weight can absorb them",
    }

    def trivial(self, architecture: Architecture, layer: int | None) -> str | None:
        return no_hadamard(architecture.sizes["hidden"]) if self.method == "hadamard" else None

    def group(self, architecture: Architecture, layer: int | None) -> str:
        return f"O({architecture.sizes['hidden']})"

    def draw(self, architecture: Architecture, seed: int, layer: int | None) -> tuple[Element, ...]:
        draw = hadamard if self.method == "hadamard" else haar
        matrix = draw(architecture.sizes["hidden"], generator(seed, self.name, layer))
        return (Rotation("hidden", (), matrix),)
