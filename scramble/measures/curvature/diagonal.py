"""A diagonal over chosen matrices as the mean of samples, with its standard error, in one accumulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

Vectors = dict[str, torch.Tensor]


@dataclass
class Diagonal:
    """The mean of sampled diagonals.

    Only the sum is kept weight by weight; how far samples scatter is kept as one number a matrix, so the
    standard error is that of a typical entry (root mean square over the matrix's entries). A tensor may be a
    stack of matrices.

    Attributes:
        total: sum of the samples of each tensor, in the model's dtype.
        squares: sum over samples and entries of each matrix of their squares, in float64.
        samples: how many.
    """

    total: Vectors = field(default_factory=dict)
    squares: Vectors = field(default_factory=dict)
    samples: int = 0

    def add(self, sample: Mapping[str, torch.Tensor]) -> None:
        for name, values in sample.items():
            if name in self.total:
                self.total[name] += values
            else:
                self.total[name] = values.detach().clone()
            squares = values.detach().double().square().flatten(max(values.ndim - 2, 0)).sum(-1).cpu()
            self.squares[name] = self.squares[name] + squares if name in self.squares else squares
        self.samples += 1

    def mean(self, name: str, index: tuple[int, ...] = ()) -> torch.Tensor:
        """Of one matrix, float64, on the CPU.

        Args:
            index: which of a stack.
        """
        return self.total[name][index].double().cpu() / self.samples

    def error_square(self, name: str, index: tuple[int, ...] = ()) -> float:
        """Squared standard errors of the mean, summed over a matrix's entries; NaN of one sample."""
        if self.samples < 2:
            return float("nan")
        scatter = float(self.squares[name][index]) - self.samples * float(
            self.mean(name, index).square().sum()
        )
        return max(scatter, 0.0) / (self.samples * (self.samples - 1))
