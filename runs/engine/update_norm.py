"""How far the weights are from where they started."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from scramble.runs.recipe.optimizers import trainable
from scramble.runs.trainers.callbacks import Callback


class UpdateNorm(Callback):
    """Stops training at the first step whose `||W - W0||_F` reaches a limit.

    The norm is over all trained weights together, tied ones once: differences, squares and sums in
    float64. A copy of the start is kept, in the weights' dtype.
    """

    def __init__(self, model: PreTrainedModel, limit: float) -> None:
        self.limit, self.norm = limit, 0.0
        self.weights = trainable(model)
        self.start = [weight.detach().clone() for weight in self.weights]

    @property
    def reached(self) -> bool:
        return self.norm >= self.limit

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.norm = distance(self.weights, self.start)
        if self.reached:
            control.should_training_stop = True


@torch.no_grad()
def distance(weights: list[torch.nn.Parameter], start: list[torch.Tensor]) -> float:
    """Frobenius norm of the difference of two lists of tensors of equal shapes."""
    pairs = zip(weights, start, strict=True)
    return sum(float((w.double() - s.double()).square().sum()) for w, s in pairs) ** 0.5
