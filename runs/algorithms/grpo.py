"""Group-relative policy optimisation and its two repairs, through TRL's GRPOTrainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, model_validator

from scramble.runs.algorithms.algorithm import Job
from scramble.runs.algorithms.on_policy import PolicyGradient

if TYPE_CHECKING:
    from transformers import Trainer


class Grpo(PolicyGradient):
    """GRPO (arXiv 2402.03300, eq. 3): advantages are rewards minus their group's mean, over its deviation.

    No KL term unless asked for; with one, TRL's estimator is the paper's (eq. 4).

    Attributes:
        loss: TRL's `loss_type`, how token losses are averaged: `grpo` over each sequence and then over
            sequences (the paper's), `bnpo` over the tokens of a micro-batch, `dapo` over those of an update,
            `dr_grpo` by the constant `max_new_tokens`.
    """

    name: Literal["grpo"] = "grpo"
    loss: Literal["grpo", "dr_grpo", "bnpo", "dapo"] = "grpo"

    def build(self, job: Job) -> Trainer:
        return _build(self, job, loss_type=self.loss)


class DrGrpo(PolicyGradient):
    """Dr. GRPO (arXiv 2503.20783, 3.2): without GRPO's two divisions, by deviation and by length.

    Advantages are rewards minus their group's mean; token losses are summed and divided by the constant
    `sequences * max_new_tokens`, where the paper's code takes the generation budget too.
    """

    name: Literal["dr_grpo"]

    def build(self, job: Job) -> Trainer:
        return _build(self, job, loss_type="dr_grpo", scale_rewards="none")


class Dapo(PolicyGradient):
    """DAPO (arXiv 2503.14476): clip-higher, token-level loss, soft over-length penalty, dynamic sampling.

    Departs from the paper in this: it over-samples prompts and drops those without spread until a batch is
    full; here each group without spread is replaced by a prompt that this batch has not seen, and when
    `resamples` rounds or the prompts are used up, training goes on with what there is. With mini-batches,
    the tokens of all sequences, shared out evenly, are what each update's loss is divided by (TRL).

    Attributes:
        epsilon: the lower clip range (3.1).
        epsilon_high: the upper one.
        resamples: rounds of dynamic sampling (3.2); 0 switches it off. A group has no spread if all its
            completions have the same score, the over-length penalty left out. Metrics:
            `resampled_groups` were replaced, `groups_without_spread` were left at the limit.
        overlong_buffer: tokens before `max_new_tokens` over which the penalty grows from 0 to -1 (3.4, eq.
            13); 0 switches it off.
        overlong_factor: weight of the penalty in the reward.
    """

    name: Literal["dapo"]
    epsilon_high: Annotated[float, Field(gt=0)] = 0.28
    resamples: NonNegativeInt = 10
    overlong_buffer: NonNegativeInt = 0
    overlong_factor: NonNegativeFloat = 1.0

    @model_validator(mode="after")
    def _ranges(self) -> Dapo:
        if self.overlong_buffer > self.max_new_tokens:
            raise ValueError(
                f"overlong_buffer {self.overlong_buffer} is above max_new_tokens {self.max_new_tokens}"
            )
        if self.epsilon_high < self.epsilon:
            raise ValueError(f"epsilon_high {self.epsilon_high} is below epsilon {self.epsilon}")
        return self

    @property
    def without_tools(self) -> str | None:
        return "dynamic sampling takes none: set algorithm.resamples to 0" if self.resamples else None

    def build(self, job: Job) -> Trainer:
        from trl.rewards import get_soft_overlong_punishment

        rewards, weights = [job.rollouts.reward], [1.0]
        if self.overlong_buffer:
            rewards.append(get_soft_overlong_punishment(self.max_new_tokens, self.overlong_buffer))
            weights.append(self.overlong_factor)
        return _build(
            self,
            job,
            reward_funcs=rewards,
            resamples=self.resamples,
            loss_type="dapo",
            epsilon_high=self.epsilon_high,
            reward_weights=weights,
        )


def _build(
    algorithm: PolicyGradient, job: Job, *, reward_funcs: Any = None, resamples: int = 0, **arguments: Any
) -> Trainer:
    from trl import GRPOConfig

    from scramble.runs.trainers.groups import GroupTrainer

    return GroupTrainer(
        rollouts=job.rollouts,
        resamples=resamples,
        reward_funcs=reward_funcs or job.rollouts.reward,
        tools=job.task.tools or None,
        args=GRPOConfig(
            **job.arguments,
            **algorithm.sampling_arguments(),
            max_tool_calling_iterations=job.task.turns,
            **arguments,
        ),
        **job.trainer_arguments(),
    )
