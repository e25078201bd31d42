"""Supervised fine-tuning on the task's answers, through TRL's SFTTrainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import PositiveInt, model_validator

from scramble.runs.algorithms.algorithm import Algorithm, Job, Row
from scramble.runs.tasks import Example, Task, said, shown

if TYPE_CHECKING:
    from transformers import Trainer


class Supervised(Algorithm):
    """Settings of algorithms that train on given texts.

    Attributes:
        batch: rows (examples or pairs) that one update trains on.
        separator: text between a prompt and its answer, as in `" "` for prompts that end with a colon.
    """

    batch: PositiveInt = 32
    separator: str = ""

    samples: ClassVar[bool] = False

    @property
    def batch_rows(self) -> int:
        return self.batch

    def rollouts(self, steps: int) -> int:
        return 0

    @model_validator(mode="after")
    def _divides(self) -> Supervised:
        if self.micro_batch and self.batch % self.micro_batch:
            raise ValueError(f"micro_batch does not divide batch {self.batch}")
        return self

    def batch_arguments(self) -> dict[str, Any]:
        """Every update trains on a whole batch: the rest of an epoch is dropped."""
        micro = self.micro_batch or self.batch
        return {
            "per_device_train_batch_size": micro,
            "gradient_accumulation_steps": self.batch // micro,
            "dataloader_drop_last": True,
        }


class Sft(Supervised):
    """Mean negative log-likelihood of the answer's tokens and the end of text, given the prompt."""

    name: Literal["sft"]

    def task_rows(self, task: Task, examples: list[Example]) -> list[Row]:
        return [
            {"prompt": shown(one.prompt), "completion": said(one.prompt, self.separator + one.text)}
            for one in examples
        ]

    def build(self, job: Job) -> Trainer:
        from trl import SFTConfig, SFTTrainer

        return SFTTrainer(
            args=SFTConfig(
                **job.arguments, **self.batch_arguments(), max_length=None, completion_only_loss=True
            ),
            **job.trainer_arguments(),
        )
