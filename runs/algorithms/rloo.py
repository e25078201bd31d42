"""REINFORCE with a leave-one-out baseline, through TRL's RLOOTrainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from scramble.runs.algorithms.algorithm import Job
from scramble.runs.algorithms.on_policy import PolicyGradient

if TYPE_CHECKING:
    from transformers import Trainer


class Rloo(PolicyGradient):
    """RLOO (arXiv 2402.14740): the baseline of a completion is the mean reward of its siblings.

    A completion is one action: the ratio to the policy that sampled is that of the whole sequence. Departs
    from the paper, which takes one on-policy update without a clip range: here the ratio is clipped by
    `epsilon` where there are several updates. The KL term is in the reward, as in the paper. TRL logs a loss
    of zero for a batch of mean advantage zero; the gradient is not.

    Attributes:
        normalize_advantages: divide by their deviation over the batch, which the paper does not.
    """

    name: Literal["rloo"]
    normalize_advantages: bool = False

    @property
    def without_tools(self) -> str:
        return "TRL's trainer for algorithm 'rloo' calls none"

    def build(self, job: Job) -> Trainer:
        from trl import RLOOConfig, RLOOTrainer

        return RLOOTrainer(
            reward_funcs=job.rollouts.reward,
            args=RLOOConfig(
                **job.arguments,
                **self.sampling_arguments(),
                normalize_advantages=self.normalize_advantages,
            ),
            **job.trainer_arguments(),
        )
