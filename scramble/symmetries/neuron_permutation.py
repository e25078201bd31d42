"""Neuron permutation: hidden units of an MLP are permuted, with their gates, biases and outgoing weights."""

from typing import ClassVar

import numpy as np

from scramble.architecture import Architecture
from scramble.symmetries.draws import generator, permutation
from scramble.symmetries.elements import Element, Permutation, SignedPermutation
from scramble.symmetries.symmetry import Symmetry


class NeuronPermutation(Symmetry):
    """A permutation of a layer's neurons, drawn uniformly from those that are not the identity.

    In a mixture of experts every routed expert draws its own, and the shared one another.

    Attributes:
        signs: flip the sign of about a half of the neurons too, in a gated MLP: up and down, not the gate.
    """

    signs: bool = False

    name: ClassVar[str] = "neuron-permutation"
    axes: ClassVar[tuple[str, ...]] = ("neuron", "expert_neuron", "shared_neuron")

    def trivial(self, architecture: Architecture, layer: int | None) -> str | None:
        sizes = architecture.sizes_of(layer)
        if self.signs and (axis := self._nonlinear(architecture, layer)):
            return f"signs: no tensor is linear in {axis}, and a nonlinearity does not follow a sign"
        single = [axis for axis in self.carried(architecture, layer) if sizes[axis] == 1]
        return f"nothing to permute: one {single[0]}" if single else None

    def _nonlinear(self, architecture: Architecture, layer: int | None) -> str | None:
        """An axis of the layer on which no tensor is linear."""
        layouts = [slot.layout for slot in architecture.slots(layer).values()]
        for axis in self.carried(architecture, layer):
            if not any(axis in layout.linear for layout in layouts):
                return axis
        return None

    def group(self, architecture: Architecture, layer: int | None) -> str:
        sizes = architecture.sizes_of(layer)
        power = {"expert_neuron": f"^{sizes.get('expert')}"}
        name = "B" if self.signs else "S"
        factors = [
            f"{name}({sizes[axis]}){power.get(axis, '')}" for axis in self.carried(architecture, layer)
        ]
        return " x ".join(factors) + ", none the identity"

    def draw(self, architecture: Architecture, seed: int, layer: int | None) -> tuple[Element, ...]:
        sizes, elements = architecture.sizes_of(layer), list[Element]()
        for axis in self.carried(architecture, layer):
            over = ("expert",) if axis == "expert_neuron" else ()
            # The dense axis keeps the key that it had alone, so that old seeds draw what they drew.
            keys: list[tuple[int | str, ...]] = [()] if axis == "neuron" else [(axis,)]
            if over:
                keys = [(axis, expert) for expert in range(sizes["expert"])]
            rows = [permutation(sizes[axis], generator(seed, self.name, layer, *key)) for key in keys]
            stacked = np.stack(rows) if over else rows[0]
            if self.signs:
                signs = generator(seed, self.name, layer, axis, "signs").choice([-1, 1], stacked.shape)
                elements.append(SignedPermutation(axis, over, (stacked + 1) * signs))
            else:
                elements.append(Permutation(axis, over, stacked))
        return tuple(elements)
