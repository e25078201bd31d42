"""V/O rotation: values are rotated inside each head, and the output projection rotates them back.

Attention mixes value vectors with scalar weights, so an orthogonal `R` on the `v` axis passes through it:
`W_O R^T  sum_t a_t (R W_V x_t + R b_V) = W_O sum_t a_t (W_V x_t + b_V)`. The value bias is rotated too.
(arXiv 2511.08567, section 4.3 and appendix D.)
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from scramble.architecture import Architecture
from scramble.symmetries.draws import generator, haar, hadamard, no_hadamard, power
from scramble.symmetries.elements import Element, Rotation, SignedPermutation
from scramble.symmetries.symmetry import Symmetry

Method = Literal["haar", "hadamard", "signed-permutation", "path"]


class VoRotation(Symmetry):
    """An orthogonal matrix on the value axis of each KV head.

    Attributes:
        method: `haar` (uniform on O(n)); `hadamard` (randomized; n a power of two); `signed-permutation`
            (exact in every dtype, and AdamW cannot tell it from the identity); `path` (part of the way
            from the identity to a Haar rotation of determinant one, for dose and response).
        strength: of `path`, from 0 (the identity) to 1 (the rotation).
        shared: one matrix for all KV heads of a layer, as in the paper; otherwise each head draws its own.
    """

    method: Method = "haar"
    strength: Annotated[float, Field(ge=0, le=1)] = 1.0
    shared: bool = False

    name: ClassVar[str] = "vo-rotation"
    axes: ClassVar[tuple[str, ...]] = ("v",)

    def trivial(self, architecture: Architecture, layer: int | None) -> str | None:
        size = architecture.sizes_of(layer)["v"]
        if self.strength != 1 and self.method != "path":
            return f"strength belongs to method=path, not to {self.method}"
        if self.method == "hadamard" and (reason := no_hadamard(size)):
            return reason
        for constraint in self.constraints(architecture, layer):
            if not (constraint.kind == "clamp" and self.method == "signed-permutation"):
                left = "; method=signed-permutation does" if constraint.kind == "clamp" else ""
                return f"{constraint.note}: elementwise, so it does not commute with a rotation{left}"
        return None

    def group(self, architecture: Architecture, layer: int | None) -> str:
        size, heads = (architecture.sizes_of(layer)[axis] for axis in ("v", "kv_head"))
        name = {"signed-permutation": "B", "path": "SO"}.get(self.method, "O")
        return f"{name}({size})" if self.shared else f"{name}({size})^{heads}"

    def draw(self, architecture: Architecture, seed: int, layer: int | None) -> tuple[Element, ...]:
        size, heads = (architecture.sizes_of(layer)[axis] for axis in ("v", "kv_head"))
        drawn = [
            self._one(size, generator(seed, self.name, layer, head))
            for head in ([0] * heads if self.shared else range(heads))
        ]
        kind = SignedPermutation if self.method == "signed-permutation" else Rotation
        return (kind("v", ("kv_head",), np.stack(drawn)),)

    def _one(self, size: int, rng: np.random.Generator) -> np.ndarray:
        if self.method == "signed-permutation":
            return (rng.permutation(size) + 1) * rng.choice([-1, 1], size)
        if self.method == "hadamard":
            return hadamard(size, rng)
        matrix = haar(size, rng)
        if self.method == "path":
            matrix[0] *= np.linalg.det(matrix)
            return power(matrix, self.strength)
        return matrix
