"""REINFORCE++: no critic, no normalisation within groups, advantages normalised over the whole batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from scramble.runs.algorithms.algorithm import Job
from scramble.runs.algorithms.on_policy import PolicyGradient

if TYPE_CHECKING:
    from transformers import Trainer


class ReinforcePlusPlus(PolicyGradient):
    """REINFORCE++ (arXiv 2501.03262): advantages are rewards, less their mean, over their deviation.

    Mean and (unbiased) deviation are those of all sequences that were sampled together. Departs from the
    paper: it takes these over tokens and puts a KL term into each token's reward; here the optional KL term
    is in the loss (`beta`, GRPO's estimator), and so all tokens of a sequence have one advantage. It samples
    one completion a prompt or more; TRL needs two.
    """

    name: Literal["reinforce++"]

    def build(self, job: Job) -> Trainer:
        return _build(self, job, baseline=False)


class ReinforcePlusPlusBaseline(PolicyGradient):
    """REINFORCE++-baseline (arXiv 2501.03262): the group's mean is taken off first.

    Departs from the paper as `reinforce++` does: statistics over sequences, and GRPO's estimator of the KL.
    """

    name: Literal["reinforce++-baseline"]

    def build(self, job: Job) -> Trainer:
        return _build(self, job, baseline=True)


def _build(algorithm: PolicyGradient, job: Job, *, baseline: bool) -> Trainer:
    from trl import GRPOConfig

    from scramble.runs.trainers.advantages import normalised_over_the_batch
    from scramble.runs.trainers.groups import GroupTrainer

    def advantages(rewards: Any) -> Any:
        return normalised_over_the_batch(rewards, baseline=baseline)

    return GroupTrainer(
        rollouts=job.rollouts,
        advantages=advantages,
        reward_funcs=job.rollouts.reward,
        tools=job.task.tools or None,
        args=GRPOConfig(
            **job.arguments,
            **algorithm.sampling_arguments(),
            max_tool_calling_iterations=job.task.turns,
            loss_type="grpo",
            scale_rewards="none",
        ),
        **job.trainer_arguments(),
    )
