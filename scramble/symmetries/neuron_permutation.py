"""Neuron permutation: hidden units of an MLP are permuted, with their gates, biases and outgoing weights."""

from typing import ClassVar

import numpy as np

from scramble.architecture import Architecture
from scramble.symmetries.draws import generator, permutation
from scramble.symmetries.elements import Element, Permutation
from scramble.symmetries.symmetry import Symmetry


class NeuronPermutation(Symmetry):
    """A permutation of a layer's neurons, drawn uniformly from those that are not the identity.

    In a mixture of experts every routed expert draws its own, and the shared one another.
    """

    name: ClassVar[str] = "neuron-permutation"
    axes: ClassVar[tuple[str, ...]] = ("neuron", "expert_neuron", "shared_neuron")

    def trivial(self, architecture: Architecture, layer: int | None) -> str | None:
        sizes = architecture.sizes_of(layer)
        single = [axis for axis in self.carried(architecture, layer) if sizes[axis] == 1]
        return f"nothing to permute: one {single[0]}" if single else None

    def group(self, architecture: Architecture, layer: int | None) -> str:
        sizes = architecture.sizes_of(layer)
        power = {"expert_neuron": f"^{sizes.get('expert')}"}
        factors = [f"S({sizes[axis]}){power.get(axis, '')}" for axis in self.carried(architecture, layer)]
        return " x ".join(factors) + ", none the identity"

    def draw(self, architecture: Architecture, seed: int, layer: int | None) -> tuple[Element, ...]:
        sizes, elements = architecture.sizes_of(layer), []
        for axis in self.carried(architecture, layer):
            over = ("expert",) if axis == "expert_neuron" else ()
            # The dense axis keeps the key that it had alone, so that old seeds draw what they drew.
            keys: list[tuple[int | str, ...]] = [()] if axis == "neuron" else [(axis,)]
            if over:
                keys = [(axis, expert) for expert in range(sizes["expert"])]
            rows = [permutation(sizes[axis], generator(seed, self.name, layer, *key)) for key in keys]
            elements.append(Permutation(axis, over, np.stack(rows) if over else rows[0]))
        return tuple(elements)
