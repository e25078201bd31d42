"""Learning from pairs without a reward model: DPO through TRL's DPOTrainer, SimPO through its CPOTrainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import NonNegativeFloat, PositiveFloat

from scramble.runs.algorithms.algorithm import Job, Row
from scramble.runs.algorithms.preferences import preferences
from scramble.runs.algorithms.sft import Supervised
from scramble.runs.tasks import Example, Task, said, shown

if TYPE_CHECKING:
    from transformers import Trainer


class _Pairs(Supervised):
    def task_rows(self, task: Task, examples: list[Example]) -> list[Row]:
        return [
            {
                "prompt": shown(pair.prompt),
                "chosen": said(pair.prompt, pair.chosen),
                "rejected": said(pair.prompt, pair.rejected),
            }
            for pair in preferences(task, examples, self.separator)
        ]


class Dpo(_Pairs):
    """DPO (arXiv 2305.18290, eq. 7), the reference model being the start.

    Attributes:
        beta: how strongly the policy is held to the reference.
    """

    name: Literal["dpo"]
    beta: PositiveFloat = 0.1

    def build(self, job: Job) -> Trainer:
        from trl import DPOConfig, DPOTrainer

        return DPOTrainer(
            args=DPOConfig(**job.arguments, **self.batch_arguments(), beta=self.beta, max_length=None),
            **job.trainer_arguments(),
        )


class SimPo(_Pairs):
    """SimPO (arXiv 2405.14734, eq. 6): mean log-likelihoods of tokens with a margin, no reference model.

    Attributes:
        beta: scale of the log-likelihoods.
        gamma: the margin, in the same unit as the scaled log-likelihoods.
    """

    name: Literal["simpo"]
    beta: PositiveFloat = 2.0
    gamma: NonNegativeFloat = 1.0

    def build(self, job: Job) -> Trainer:
        from scramble.runs.internals.trl_experimental import CPOConfig
        from scramble.runs.trainers.simpo import NO_LIMIT, SimPoTrainer

        return SimPoTrainer(
            chats=not isinstance(job.rows[0]["prompt"], str),
            args=CPOConfig(
                **job.arguments,
                **self.batch_arguments(),
                loss_type="simpo",
                cpo_alpha=0.0,
                beta=self.beta,
                simpo_gamma=self.gamma,
                max_length=NO_LIMIT,
            ),
            **job.trainer_arguments(),
        )
