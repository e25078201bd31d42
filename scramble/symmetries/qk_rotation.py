"""Q/K rotation: queries and keys are turned alike, by what commutes with rotary positions.

Rotary positions turn pairs of channels, so a rotation of each pair by an angle of its own commutes with
them; channels without positions are free. Scores `q . k` keep their value. Gains of a QK norm differ from
channel to channel and leave only the changes of sign that each pair shares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from scramble.families import Architecture
from scramble.symmetries.draws import generator
from scramble.symmetries.elements import Element, Rotation, SignedPermutation
from scramble.symmetries.orthogonal import haar
from scramble.symmetries.symmetry import Symmetry


class QkRotation(Symmetry):
    """One element for each KV head: an angle a rotary pair, a Haar matrix on the other channels; or signs."""

    name: ClassVar[str] = "qk-rotation"
    axes: ClassVar[tuple[str, ...]] = ("qk",)
    forbidding: ClassVar[Mapping[str, str]] = {
        "layer_norm": "subtracting the mean over channels commutes with no rotation of them",
        "clamp": "an elementwise clamp does not commute with a rotation",
    }

    def group(self, architecture: Architecture, layer: int) -> str:
        first, _, free = self._channels(architecture, layer)
        heads = architecture.sizes["kv_head"]
        if self._gains(architecture, layer):
            return f"Z2^{(len(first) + len(free)) * heads}"
        parts = [f"SO(2)^{len(first)}"] * (len(first) > 0) + [f"O({len(free)})"] * (len(free) > 0)
        return f"({' x '.join(parts)})^{heads}"

    def draw(self, architecture: Architecture, seed: int, layer: int) -> tuple[Element, ...]:
        channels = self._channels(architecture, layer)
        rngs = [generator(seed, self.name, layer, head) for head in range(architecture.sizes["kv_head"])]
        if self._gains(architecture, layer):
            signs = np.stack([_signs(*channels, rng) for rng in rngs])
            return (SignedPermutation("qk", ("kv_head",), signs),)
        return (Rotation("qk", ("kv_head",), np.stack([_turn(*channels, rng) for rng in rngs])),)

    def _gains(self, architecture: Architecture, layer: int) -> bool:
        return any(one.kind == "gain" for one in self.constraints(architecture, layer))

    def _channels(self, architecture: Architecture, layer: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """First and second channels of the rotary pairs, and the channels without positions."""
        size = architecture.sizes["qk"]
        for one in self.constraints(architecture, layer):
            if one.kind == "rope":
                rotary = np.arange(one.channels or size)
                pairs = rotary.reshape(2, -1) if one.layout == "half" else rotary.reshape(-1, 2).T
                return pairs[0], pairs[1], np.arange(len(rotary), size)
        return np.arange(0), np.arange(0), np.arange(size)


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
    signed = np.arange(1, 2 * len(first) + len(free) + 1)
    flips = rng.choice([-1, 1], len(first))
    signed[first] *= flips
    signed[second] *= flips
    signed[free] *= rng.choice([-1, 1], len(free))
    return signed
