"""Scalings by powers of two: the same function, other magnitudes, and every coordinate where it was.

A channel that one weight writes and another reads linearly may be written `2^k` times as large and read with
`2^-k`. Powers of two move exponents alone, so every product and every sum keeps its digits in floating point:
logits are equal bit for bit. Unlike rotations and permutations, scalings relabel nothing: a weight stays
where it is, and only the threshold of its bf16 rounding changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from scramble.architecture import Architecture
from scramble.symmetries.draws import generator
from scramble.symmetries.elements import Element, Scaling
from scramble.symmetries.qk_rotation import per_head, rotary_channels
from scramble.symmetries.symmetry import Symmetry

_CLAMP = {"clamp": "a clamp at a constant does not follow a change of scale"}


class _Scaling(Symmetry):
    """Exponents drawn uniformly from -k to k, not all of them zero.

    Attributes:
        k: the largest exponent.
        mirrored: the negative of what the same seed draws otherwise, so that what one of a pair of draws
            makes larger the other makes smaller.
    """

    relabels: ClassVar[bool] = False

    k: Annotated[int, Field(ge=1, le=8)] = 1
    mirrored: bool = False

    def trivial(self, architecture: Architecture, layer: int | None) -> str | None:
        slots = architecture.slots(layer).values()
        if any(axis in slot.layout.linear for axis in self.axes for slot in slots):
            return None
        return f"no tensor is linear in {self.axes[0]}: a nonlinearity does not follow a change of scale"

    def _linear(self, architecture: Architecture, layer: int | None) -> list[str]:
        slots = architecture.slots(layer).values()
        return [axis for axis in self.axes if any(axis in slot.layout.linear for slot in slots)]

    def _exponents(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        while True:
            drawn = rng.integers(-self.k, self.k, shape, endpoint=True, dtype=np.int64)
            if drawn.any():
                return -drawn if self.mirrored else drawn


class VoScaling(_Scaling):
    """Values, and inversely the output projection.

    Attributes:
        per: one exponent a `channel` of each KV head, a `head`, or the whole `tensor`.
    """

    per: Literal["channel", "head", "tensor"] = "channel"

    name: ClassVar[str] = "vo-scaling"
    axes: ClassVar[tuple[str, ...]] = ("v",)
    forbidding: ClassVar[Mapping[str, str]] = _CLAMP

    def group(self, architecture: Architecture, layer: int | None) -> str:
        size, heads = (architecture.sizes_of(layer)[axis] for axis in ("v", "kv_head"))
        count = {"channel": size * heads, "head": heads, "tensor": 1}[self.per]
        return f"(2^Z)^{count}, at most {self.k}, not the identity"

    def draw(self, architecture: Architecture, seed: int, layer: int | None) -> tuple[Element, ...]:
        size, heads = (architecture.sizes_of(layer)[axis] for axis in ("v", "kv_head"))
        shape = {"channel": (heads, size), "head": (heads, 1), "tensor": (1, 1)}[self.per]
        drawn = self._exponents(generator(seed, self.name, layer), shape)
        return (Scaling("v", ("kv_head",), np.broadcast_to(drawn, (heads, size)).copy()),)


class NeuronScaling(_Scaling):
    """The rows of the up projection of a gated MLP, and inversely the columns of the down projection.

    Attributes:
        per: one exponent a `neuron`, or the whole `tensor` (in a mixture of experts, each expert's).
    """

    per: Literal["neuron", "tensor"] = "neuron"

    name: ClassVar[str] = "neuron-scaling"
    axes: ClassVar[tuple[str, ...]] = ("neuron", "expert_neuron", "shared_neuron")

    def group(self, architecture: Architecture, layer: int | None) -> str:
        counts = [shape[0] * shape[1] for _, shape in self._shapes(architecture, layer)]
        return f"(2^Z)^{sum(counts)}, at most {self.k}, not the identity"

    def _shapes(self, architecture: Architecture, layer: int | None) -> list[tuple[str, tuple[int, int]]]:
        sizes = architecture.sizes_of(layer)
        return [
            (
                axis,
                (
                    sizes["expert"] if axis == "expert_neuron" else 1,
                    sizes[axis] if self.per == "neuron" else 1,
                ),
            )
            for axis in self._linear(architecture, layer)
        ]

    def draw(self, architecture: Architecture, seed: int, layer: int | None) -> tuple[Element, ...]:
        sizes, elements = architecture.sizes_of(layer), list[Element]()
        for axis, shape in self._shapes(architecture, layer):
            drawn = self._exponents(generator(seed, self.name, layer, axis), shape)
            whole = np.broadcast_to(drawn, (shape[0], sizes[axis])).copy()
            over = ("expert",) if axis == "expert_neuron" else ()
            elements.append(Scaling(axis, over, whole if over else whole[0]))
        return tuple(elements)


class QkScaling(_Scaling):
    """Queries, and inversely keys; both channels of a rotary pair alike.

    Attributes:
        per: one exponent a rotary `pair` (and a channel without positions) of each KV head, a `head`, or the
            whole `tensor`.
    """

    per: Literal["pair", "head", "tensor"] = "pair"

    name: ClassVar[str] = "qk-scaling"
    axes: ClassVar[tuple[str, ...]] = ("qk", "qk_rope")
    forbidding: ClassVar[Mapping[str, str]] = {
        **_CLAMP,
        "gain": "a norm takes the change of scale back",
        "layer_norm": "a norm takes the change of scale back",
    }

    def group(self, architecture: Architecture, layer: int | None) -> str:
        shapes = [self._shape(architecture, layer, axis) for axis in self._linear(architecture, layer)]
        return f"(2^Z)^{sum(heads * own for heads, own in shapes)}, at most {self.k}, not the identity"

    def _shape(self, architecture: Architecture, layer: int | None, axis: str) -> tuple[int, int]:
        """How many heads have exponents of their own, and how many each has."""
        first, _, free = rotary_channels(architecture, layer, axis)
        apart = self.per != "tensor" and per_head(architecture, layer, axis)
        heads = architecture.sizes_of(layer)["kv_head"] if apart else 1
        return heads, len(first) + len(free) if self.per == "pair" else 1

    def draw(self, architecture: Architecture, seed: int, layer: int | None) -> tuple[Element, ...]:
        elements = list[Element]()
        for axis in self._linear(architecture, layer):
            first, second, free = rotary_channels(architecture, layer, axis)
            own = per_head(architecture, layer, axis)
            heads = architecture.sizes_of(layer)["kv_head"] if own else 1
            drawn = self._exponents(
                generator(seed, self.name, layer, axis), self._shape(architecture, layer, axis)
            )
            units = np.broadcast_to(drawn, (heads, len(first) + len(free)))
            whole = np.empty((heads, 2 * len(first) + len(free)), np.int64)
            whole[:, first] = whole[:, second] = units[:, : len(first)]
            whole[:, free] = units[:, len(first) :]
            elements.append(Scaling(axis, ("kv_head",) if own else (), whole if own else whole[0]))
        return tuple(elements)
