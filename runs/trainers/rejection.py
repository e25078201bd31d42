"""Supervised steps on the right ones among sampled completions, on TRL's machinery for sampling."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from scramble.runs.internals.trl import measure
from scramble.runs.trainers.groups import Group, GroupTrainer


class RejectionTrainer(GroupTrainer):
    """The loss is the mean negative log-likelihood of the model's own tokens in completions of reward 1."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, advantages=lambda rewards: rewards.ge(1), **kwargs)

    def _generate_and_score_completions(self, inputs: Group) -> dict[str, Any]:
        batch = super()._generate_and_score_completions(inputs)
        kept = batch["advantages"]
        measure(self, "kept", kept.sum().item())
        batch["num_items_in_batch"] = (_own_tokens(batch).sum(dim=1) * kept).sum()
        return batch

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        tokens = _own_tokens(inputs)
        mask = tokens * inputs["advantages"].unsqueeze(1)
        log_likelihoods, entropies, _ = self._get_per_token_logps_and_entropies(
            model,
            torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1),
            torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1),
            inputs["completion_ids"].size(1),
            compute_entropy=True,
        )
        measure(self, "entropy", ((entropies * tokens).sum() / tokens.sum()).item())
        return -(log_likelihoods * mask).sum() / inputs["num_items_in_batch"].clamp(min=1)


def _own_tokens(batch: dict[str, Any]) -> Int[Tensor, "sequence token"]:
    """1 for tokens that the model said, 0 for padding and for what tools answered."""
    return batch["completion_mask"] * batch.get("tool_mask", 1)
