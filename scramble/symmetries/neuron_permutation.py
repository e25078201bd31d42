"""Neuron permutation: hidden units of the MLP trade places, with their gates, biases and outgoing weights."""

from typing import ClassVar

from scramble.families import Architecture
from scramble.symmetries.draws import generator
from scramble.symmetries.elements import Element, Permutation
from scramble.symmetries.head_permutation import permutation
from scramble.symmetries.symmetry import Symmetry


class NeuronPermutation(Symmetry):
    """A permutation of the neurons of a layer, drawn uniformly from those that are not the identity."""

    name: ClassVar[str] = "neuron-permutation"
    axes: ClassVar[tuple[str, ...]] = ("neuron",)

    def group(self, architecture: Architecture, layer: int) -> str:
        return f"S({architecture.sizes['neuron']}), not the identity"

    def draw(self, architecture: Architecture, seed: int, layer: int) -> tuple[Element, ...]:
        drawn = permutation(architecture.sizes["neuron"], generator(seed, self.name, layer))
        return (Permutation("neuron", (), drawn),)
