"""Advantages that TRL does not have."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def normalised_over_the_batch(
    rewards: Float[Tensor, "prompt generation"], *, baseline: bool
) -> Float[Tensor, "prompt generation"]:
    """REINFORCE++ (arXiv 2501.03262): less the mean, over the unbiased deviation, of the whole batch.

    Args:
        baseline: take off each group's mean first (REINFORCE++-baseline).

    Returns:
        float64; zero where all rewards are equal.
    """
    rewards = rewards.to(torch.float64)
    if baseline:
        rewards = rewards - rewards.mean(dim=1, keepdim=True)
    return (rewards - rewards.mean()) / (rewards.std() + 1e-8)
