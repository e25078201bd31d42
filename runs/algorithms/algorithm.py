"""What an algorithm is: settings, the rows that it trains on, and a TRL trainer made from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import PositiveInt

from scramble.errors import RecipeError
from scramble.runs.section import Section
from scramble.runs.tasks import Example, Task

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback

    from scramble.runs.trainers.rollouts import Rollouts

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What a trainer is made of, apart from the algorithm's own settings.

    Attributes:
        rows: what `Algorithm.rows` gave.
        arguments: of transformers' `TrainingArguments`, the same for every algorithm.
        rollouts: scores sampled text; algorithms without samples leave it alone.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    rows: list[Row]
    arguments: dict[str, Any]
    optimizer: torch.optim.Optimizer
    callbacks: list[TrainerCallback]
    rollouts: Rollouts

    @property
    def task(self) -> Task:
        return self.rollouts.task

    def trainer_arguments(self) -> dict[str, Any]:
        """What every TRL trainer takes, apart from its `args`."""
        from datasets import Dataset

        return {
            "model": self.model,
            "train_dataset": Dataset.from_list(self.rows),
            "processing_class": self.tokenizer,
            "callbacks": self.callbacks,
            "optimizers": (self.optimizer, None),
        }


class Algorithm(Section, ABC):
    """Settings that every algorithm has.

    Attributes:
        micro_batch: sequences (or pairs) that go through the model at once; all of an update by default.
    """

    name: str
    micro_batch: PositiveInt | None = None

    samples: ClassVar[bool]
    """Whether it samples from the model as it trains, so that there is a reward."""

    @property
    def reward_values(self) -> tuple[float, float]:
        """The reward of a right and of a wrong answer."""
        return 1.0, 0.0

    @property
    def without_tools(self) -> str | None:
        """Why the model can call no tools while it answers; None if it can."""
        return None

    @property
    @abstractmethod
    def batch_rows(self) -> int:
        """Rows of the data set that one batch takes; fewer than this and there is nothing to train on."""

    @abstractmethod
    def rollouts(self, steps: int) -> int:
        """Sequences that are sampled in so many steps, without those that are sampled again."""

    @abstractmethod
    def task_rows(self, task: Task, examples: list[Example]) -> list[Row]:
        """The data set.

        Raises:
            RecipeError: the task has not what this algorithm needs.
        """

    @abstractmethod
    def build(self, job: Job) -> Trainer:
        """The trainer, ready to run."""

    def rows(self, task: Task, examples: list[Example]) -> list[Row]:
        """The data set, long enough for one batch.

        Raises:
            RecipeError: too short, or the task has not what this algorithm needs.
        """
        rows = self.task_rows(task, examples)
        if len(rows) < self.batch_rows:
            raise RecipeError(
                f"task: {len(rows)} examples are too few: algorithm '{self.name}' takes {self.batch_rows} "
                "at a time; raise the task's size or lower the batch"
            )
        return rows
