"""Q/K rotation: queries and keys are rotated alike, by what commutes with rotary positions.

Rotary positions rotate pairs of channels, so a rotation of each pair by an angle of its own commutes with
them; channels without positions are free. Scores `q . k` keep their value. Gains of a QK norm differ from
channel to channel and leave only the changes of sign that each pair shares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from einops import rearrange

from scramble.architecture import Architecture
from scramble.symmetries.draws import generator, haar
from scramble.symmetries.elements import Element, Rotation, SignedPermutation
from scramble.symmetries.symmetry import Symmetry


class QkRotation(Symmetry):
    """One element for each KV head: an angle a rotary pair, a Haar matrix on the other channels; or signs.

    Multi-head latent attention has two such axes: `qk` without positions, one element a head, and
    `qk_rope`, whose keys all heads share, so that one element serves them all.
    """

    name: ClassVar[str] = "qk-rotation"
    axes: ClassVar[tuple[str, ...]] = ("qk", "qk_rope")
    forbidding: ClassVar[Mapping[str, str]] = {
        "layer_norm": "subtracting the mean over channels commutes with no rotation of them",
        "clamp": "an elementwise clamp does not commute with a rotation",
    }

    def group(self, architecture: Architecture, layer: int | None) -> str:
        factors = []
        for axis in self.carried(architecture, layer):
            first, _, free = rotary_channels(architecture, layer, axis)
            parts = [f"SO(2)^{len(first)}"] * (len(first) > 0) + [f"O({len(free)})"] * (len(free) > 0)
            heads = len(self._keys(architecture, layer, axis))
            if self._gains(architecture, layer, axis):
                factors.append(f"(Z2^{len(first) + len(free)}, not the identity)^{heads}")
            else:
                factors.append(f"({' x '.join(parts)})^{heads}")
        return " x ".join(factors)

    def draw(self, architecture: Architecture, seed: int, layer: int | None) -> tuple[Element, ...]:
        elements: list[Element] = []
        for axis in self.carried(architecture, layer):
            channels, keys = rotary_channels(architecture, layer, axis), self._keys(architecture, layer, axis)
            signs = self._gains(architecture, layer, axis)
            kind, draw = (SignedPermutation, _signs) if signs else (Rotation, _turn)
            drawn = [draw(*channels, generator(seed, self.name, layer, key)) for key in keys]
            shared = keys == [axis]
            elements.append(
                kind(axis, () if shared else ("kv_head",), drawn[0] if shared else np.stack(drawn))
            )
        return tuple(elements)

    def _keys(self, architecture: Architecture, layer: int | None, axis: str) -> Sequence[int | str]:
        """What the draws are keyed by: every KV head, or the axis where some tensor shares it over heads."""
        own = per_head(architecture, layer, axis)
        return range(architecture.sizes_of(layer)["kv_head"]) if own else [axis]

    def _gains(self, architecture: Architecture, layer: int | None, axis: str) -> bool:
        return any(one.kind == "gain" and one.axis == axis for one in self.constraints(architecture, layer))


def rotary_channels(
    architecture: Architecture, layer: int | None, axis: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First and second channels of the rotary pairs, and the channels without positions."""
    size = architecture.sizes_of(layer)[axis]
    for one in architecture.constraints(layer):
        if one.kind == "rope" and one.axis == axis:
            rotary = np.arange(size if one.channels is None else one.channels)
            order = "(side pair)" if one.layout == "half" else "(pair side)"
            pairs = rearrange(rotary, f"{order} -> side pair", side=2)
            return pairs[0], pairs[1], np.arange(len(rotary), size)
    return np.arange(0), np.arange(0), np.arange(size)


def per_head(architecture: Architecture, layer: int | None, axis: str) -> bool:
    """Whether every head has the axis for itself; a tensor may share it over heads."""
    carriers = [slot for slot in architecture.slots(layer).values() if axis in slot.layout.axes]
    return all(slot.carries("kv_head") for slot in carriers)


def _turn(first: np.ndarray, second: np.ndarray, free: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    size = 2 * len(first) + len(free)
    angles = rng.uniform(0, 2 * np.pi, len(first))
    matrix = np.zeros((size, size))
    matrix[first, first] = matrix[second, second] = np.cos(angles)
    matrix[first, second], matrix[second, first] = -np.sin(angles), np.sin(angles)
    if len(free):
        matrix[np.ix_(free, free)] = haar(len(free), rng)
    return matrix


def _signs(first: np.ndarray, second: np.ndarray, free: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Uniform over the changes of sign that are not the identity (with two pairs, one in four is)."""
    while True:
        pairs, others = rng.choice([-1, 1], len(first)), rng.choice([-1, 1], len(free))
        if (pairs < 0).any() or (others < 0).any():
            break
    signed = np.arange(1, 2 * len(first) + len(free) + 1)
    signed[first] *= pairs
    signed[second] *= pairs
    signed[free] *= others
    return signed
