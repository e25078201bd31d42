"""On-policy rejection-sampling fine-tuning: what is learned from right answers alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from scramble.runs.algorithms.algorithm import Job
from scramble.runs.algorithms.on_policy import Sampling

if TYPE_CHECKING:
    from transformers import Trainer


class RejectionSft(Sampling):
    """Each step samples from the current policy, keeps the right completions, and takes one supervised step.

    The loss is the mean negative log-likelihood of all tokens of the kept completions, at the sampling
    temperature. After RFT (arXiv 2308.01825) and RAFT (arXiv 2304.06767), as compared with policy gradients
    in arXiv 2504.11343. Departs from RFT, which samples once from a fine-tuned model and keeps distinct
    reasoning paths, and from RAFT, which keeps the best of each prompt: here all right completions are kept.

    The metric `kept` counts them; where it is 0, the gradient is zero (momentum still moves the weights).
    """

    name: Literal["rejection_sft"]

    def build(self, job: Job) -> Trainer:
        from trl import GRPOConfig

        from scramble.runs.trainers.rejection import RejectionTrainer

        return RejectionTrainer(
            rollouts=job.rollouts,
            reward_funcs=job.rollouts.reward,
            tools=job.task.tools or None,
            args=GRPOConfig(
                **job.arguments,
                **self.sampling_arguments(),
                max_tool_calling_iterations=job.task.turns,
                scale_rewards="none",
            ),
            **job.trainer_arguments(),
        )
