"""Training a part of the weights: what a mask leaves out keeps its bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from transformers import PreTrainedModel

from scramble.errors import RunError


class Sparse:
    """Freezes weights of a model where masks are False.

    Their gradients are zero, so that neither the norm that gradients are clipped to nor an optimizer's state
    sees them; and after each step of the optimizer they are set back to the start's bits, whatever weight
    decay, momentum or an orthogonalised update did to them. A copy of the masked weights is kept.

    Args:
        masks: by name; True where a weight is trained.
        others: whether weights without a mask are trained.

    Raises:
        RunError: a mask for a weight that the model does not hold under that name and shape.
    """

    def __init__(
        self, model: PreTrainedModel, masks: Mapping[str, Bool[np.ndarray, "..."]], others: bool
    ) -> None:
        weights = dict(model.named_parameters())
        for name, mask in masks.items():
            if name not in weights or weights[name].shape != mask.shape:
                raise RunError(
                    f"mask: transformers holds '{name}' under another name or shape than the start"
                )
        self.held: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self.trained = 0
        for name, weight in weights.items():
            if name not in masks:
                weight.requires_grad_(others)
                self.trained += weight.numel() * others
                continue
            frozen = torch.from_numpy(~masks[name]).to(weight.device)
            self.held.append((weight, frozen, weight.detach().clone()))
            weight.register_post_accumulate_grad_hook(_Zero(frozen))
            self.trained += int(np.count_nonzero(masks[name]))

    def hold(self, optimizer: torch.optim.Optimizer) -> None:
        """Set frozen weights back after every step of an optimizer."""
        optimizer.register_step_post_hook(self._restore)

    @torch.no_grad()
    def _restore(self, *_: Any) -> None:
        for weight, frozen, start in self.held:
            weight.copy_(torch.where(frozen, start, weight))


class _Zero:
    """Sets a gradient to zero where its weight is frozen, NaN too."""

    def __init__(self, frozen: torch.Tensor) -> None:
        self.frozen = frozen

    def __call__(self, weight: torch.Tensor) -> None:
        if weight.grad is not None:
            weight.grad.masked_fill_(self.frozen, 0)
