"""The overlap of two runs that is expected before either is trained.

AdamW moves every weight by about its learning rate at each update. If the signs of these moves were a coin's,
the sum of n of them would be normal with a standard deviation of `learning rate x sqrt(n)`, and bf16 storage
would show it where it passes half the gap to a neighbouring number. The rule has no fit and knows magnitudes
alone: what runs share beyond it is what they have in common.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scramble.checkpoints.storage import bf16_to_float32

if TYPE_CHECKING:
    from jaxtyping import Float64, UInt16

_SIZE = 0x7FFF  # of a bf16 word without its sign
_FINITE = 0x7F80  # sizes below this are finite


def change_probabilities(sigma: float) -> Float64[np.ndarray, "32768"]:
    """The probability that a bf16 weight changes under a normal update, by its word without the sign.

    Args:
        sigma: standard deviation of the update before it is rounded.

    Returns:
        `P(w + N(0, sigma^2) rounds to another number)`; 0 for what is not finite.
    """
    from scipy.special import ndtr

    sizes = np.arange(_FINITE + 1, dtype=np.uint16)
    values = bf16_to_float32(sizes).astype(np.float64)
    gaps = np.diff(values)  # the last one is infinite
    above = gaps
    below = np.concatenate([gaps[:1], gaps[:-1]])
    found = np.zeros(_SIZE + 1)
    found[:_FINITE] = ndtr(-above / 2 / sigma) + ndtr(-below / 2 / sigma)
    return found


@dataclass(frozen=True)
class Expected:
    """Expected counts of two runs' changed weights; they add up over tensors.

    Attributes:
        n: weights.
        a, b: those that each run changes.
        both: those that both change.
        chance: those that both would change if each run's changes were spread evenly over the tensor.
    """

    n: int = 0
    a: float = 0.0
    b: float = 0.0
    both: float = 0.0
    chance: float = 0.0

    def __add__(self, other: Expected) -> Expected:
        return Expected(
            self.n + other.n,
            self.a + other.a,
            self.b + other.b,
            self.both + other.both,
            self.chance + other.chance,
        )

    @property
    def jaccard(self) -> float:
        """Both over either: the ratio of the expected counts."""
        return _ratio(self.both, self.a + self.b - self.both)

    @property
    def chance_jaccard(self) -> float:
        """The same, if changes were spread evenly."""
        return _ratio(self.chance, self.a + self.b - self.chance)


def expected_overlap(
    start_a: UInt16[np.ndarray, "..."],
    start_b: UInt16[np.ndarray, "..."],
    probabilities: Float64[np.ndarray, "32768"],
) -> Expected:
    """What two runs with independent updates change of one tensor, from their starts, place by place.

    Args:
        start_a, start_b: bf16 words of one shape.
        probabilities: of `change_probabilities`.

    Returns:
        The expected counts.
    """
    one, other = probabilities[start_a & _SIZE], probabilities[start_b & _SIZE]
    a, b, n = float(one.sum()), float(other.sum()), one.size
    return Expected(n, a, b, float((one * other).sum()), a * b / n if n else 0.0)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
