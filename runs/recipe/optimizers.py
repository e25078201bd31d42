"""Optimizers as values of a recipe: float32 weights and state, constant learning rate after a warmup."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat

from scramble.runs.section import Section

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Momentum = Annotated[float, Field(ge=0, lt=1)]


class _Optimizer(Section, ABC):
    """Settings that every optimizer has.

    Attributes:
        warmup_steps: steps over which the learning rate rises linearly from 0; constant afterwards.
        max_grad_norm: the gradient of all weights together is scaled down to this norm first.
        weight_decay: decoupled (SGD: added to the gradient); never of biases and gains of norms.
    """

    name: str
    learning_rate: PositiveFloat
    warmup_steps: NonNegativeInt = 0
    max_grad_norm: PositiveFloat = 1.0
    weight_decay: NonNegativeFloat = 0.0

    @abstractmethod
    def build(self, model: PreTrainedModel) -> torch.optim.Optimizer:
        """The optimizer of a model's trainable weights."""

    def arguments(self) -> dict[str, Any]:
        """What transformers' `TrainingArguments` must know of it."""
        return {
            "lr_scheduler_type": "constant_with_warmup",
            "warmup_steps": self.warmup_steps,
            "max_grad_norm": self.max_grad_norm,
        }

    def _groups(self, parameters: list[torch.nn.Parameter]) -> list[dict[str, Any]]:
        """Matrices decay, vectors do not."""
        decayed = [p for p in parameters if p.ndim >= 2]
        others = [p for p in parameters if p.ndim < 2]
        groups = [
            {"params": decayed, "weight_decay": self.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]


class AdamW(_Optimizer):
    """AdamW (arXiv 1711.05101). Defaults are those of arXiv 2511.08567, C.1; `weight_decay` is open there."""

    name: Literal["adamw"] = "adamw"
    learning_rate: PositiveFloat = 1e-6
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    epsilon: PositiveFloat = 1e-8

    def build(self, model: PreTrainedModel) -> torch.optim.Optimizer:
        import torch

        groups = self._groups(trainable(model))
        return torch.optim.AdamW(groups, lr=self.learning_rate, betas=self.betas, eps=self.epsilon)


class Sgd(_Optimizer):
    """Stochastic gradient descent with (heavy-ball) momentum, as in arXiv 2602.07729.

    An update is proportional to the gradient, so its learning rate is of another order than AdamW's, and
    `max_grad_norm` bounds it: without momentum, a step is never longer than `learning_rate * max_grad_norm`.
    """

    name: Literal["sgd"]
    learning_rate: PositiveFloat = 0.1
    momentum: Momentum = 0.9
    nesterov: bool = False

    def build(self, model: PreTrainedModel) -> torch.optim.Optimizer:
        import torch

        return torch.optim.SGD(
            self._groups(trainable(model)),
            lr=self.learning_rate,
            momentum=self.momentum,
            nesterov=self.nesterov and self.momentum > 0,
        )


class Muon(_Optimizer):
    """Muon for hidden matrices, AdamW for the rest (K. Jordan, 2024; scaling of arXiv 2502.16982, 2.2).

    A hidden matrix is a two-dimensional weight that is no embedding and no output head. Its update is the
    momentum made nearly orthogonal by five Newton-Schulz iterations: singular values between about 0.7 and
    1.2, in bfloat16 (`torch.optim.Muon`). Experts stored as one three-dimensional tensor go to AdamW.

    Attributes:
        adjust: `match_rms_adamw` scales an update by `0.2 * sqrt(max(rows, columns))`, so that AdamW's
            learning rates fit; `original` by `sqrt(max(1, rows / columns))`.
        adamw_learning_rate: that of the rest.
        betas, epsilon: AdamW's.
        weight_decay: of all matrices, embeddings included.
    """

    name: Literal["muon"]
    learning_rate: PositiveFloat = 1e-6
    momentum: Momentum = 0.95
    nesterov: bool = True
    adjust: Literal["match_rms_adamw", "original"] = "match_rms_adamw"
    adamw_learning_rate: PositiveFloat = 1e-6
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    epsilon: PositiveFloat = 1e-8

    def build(self, model: PreTrainedModel) -> torch.optim.Optimizer:
        import torch

        from scramble.runs.trainers.together import Together

        hidden = hidden_matrices(model)
        ids = {id(p) for p in hidden}
        rest = [p for p in trainable(model) if id(p) not in ids]
        parts: list[torch.optim.Optimizer] = []
        if hidden:
            parts.append(
                torch.optim.Muon(
                    hidden,
                    lr=self.learning_rate,
                    weight_decay=self.weight_decay,
                    momentum=self.momentum,
                    nesterov=self.nesterov,
                    adjust_lr_fn=self.adjust,
                )
            )
        if rest:
            parts.append(
                torch.optim.AdamW(
                    self._groups(rest), lr=self.adamw_learning_rate, betas=self.betas, eps=self.epsilon
                )
            )
        return Together(parts)


Optimizer = AdamW | Sgd | Muon


def trainable(model: PreTrainedModel) -> list[torch.nn.Parameter]:
    """Weights that are trained; tied ones once."""
    return [p for p in model.parameters() if p.requires_grad]


def hidden_matrices(model: PreTrainedModel) -> list[torch.nn.Parameter]:
    """Trainable two-dimensional weights that are neither embeddings nor the output head."""
    import torch

    outer = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    head = model.get_output_embeddings()
    if head is not None:
        outer.add(id(head.weight))
    return [p for p in trainable(model) if p.ndim == 2 and id(p) not in outer]
