"""A diagonal over chosen matrices as the mean of samples, with its standard error, in one accumulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

Vectors = dict[str, torch.Tensor]


@dataclass
class Diagonal:
    """The mean of sampled diagonals.

    Only the sum is kept weight by weight; how far samples scatter is kept as one number a tensor, so the
    standard error is that of a typical entry (root mean square over the tensor's entries).

    Attributes:
        total: sum of the samples of each tensor, in the model's dtype.
        squares: sum over samples and entries of their squares, in float64.
        samples: how many.
    """

    total: Vectors = field(default_factory=dict)
    squares: dict[str, float] = field(default_factory=dict)
    samples: int = 0

    def add(self, sample: Mapping[str, torch.Tensor]) -> None:
        for name, values in sample.items():
            if name in self.total:
                self.total[name] += values
            else:
                self.total[name] = values.detach().clone()
            self.squares[name] = self.squares.get(name, 0.0) + float(values.detach().double().square().sum())
        self.samples += 1

    def mean(self, name: str) -> torch.Tensor:
        """Of one tensor, float64, on the CPU."""
        return self.total[name].double().cpu() / self.samples

    def error_square(self, name: str) -> float:
        """Squared standard errors of the mean, summed over a tensor's entries; NaN of one sample."""
        if self.samples < 2:
            return float("nan")
        scatter = self.squares[name] - self.samples * float(self.mean(name).square().sum())
        return max(scatter, 0.0) / (self.samples * (self.samples - 1))
