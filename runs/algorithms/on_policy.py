"""Settings of algorithms that sample groups of completions from the model as it trains."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, FiniteFloat, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from scramble.runs.algorithms.algorithm import Algorithm, Row
from scramble.runs.tasks import Example, Task


class Sampling(Algorithm):
    """What and how much is sampled.

    Attributes:
        prompts: distinct prompts that are sampled at a time.
        generations: completions of each prompt; `prompts * generations` sequences are sampled at a time.
        max_new_tokens: the most that a completion has.
    """

    prompts: PositiveInt = 4
    generations: Annotated[int, Field(ge=2)] = 8
    max_new_tokens: PositiveInt = 64
    temperature: PositiveFloat = 1.0

    samples: ClassVar[bool] = True

    @property
    def batch_rows(self) -> int:
        return self.prompts

    @property
    def updates(self) -> int:
        """Updates of the weights for each time that is sampled."""
        return 1

    @property
    def sequences(self) -> int:
        return self.prompts * self.generations

    @property
    def per_update(self) -> int:
        """Sequences that one update trains on."""
        return self.sequences

    def rollouts(self, steps: int) -> int:
        return -(-steps // self.updates) * self.sequences

    def task_rows(self, task: Task, examples: list[Example]) -> list[Row]:
        return [task.row(example) for example in examples]

    @model_validator(mode="after")
    def _divides(self) -> Sampling:
        if self.micro_batch and self.per_update % self.micro_batch:
            raise ValueError(f"micro_batch does not divide the {self.per_update} sequences of an update")
        return self

    def sampling_arguments(self) -> dict[str, Any]:
        """Arguments that TRL's GRPO and RLOO share."""
        micro = self.micro_batch or self.per_update
        return {
            "per_device_train_batch_size": micro,
            "gradient_accumulation_steps": self.per_update // micro,
            "steps_per_generation": self.sequences // micro,
            "num_generations": self.generations,
            "max_completion_length": self.max_new_tokens,
            "temperature": self.temperature,
        }


class PolicyGradient(Sampling):
    """Sampling, and then updates by a clipped policy gradient.

    Attributes:
        mini_batches: the sampled sequences are split into so many updates, at random.
        iterations: how often all of them are gone through. `steps` of the recipe counts updates, so sampling
            happens once in `mini_batches * iterations` steps; after the first of these, the policy is no
            longer the one that sampled, and the clip range matters.
        epsilon: the ratio to the policy that sampled is clipped below 1 - epsilon and above 1 + epsilon.
        beta: weight of the KL term to the start; 0 for none, and then there is no reference model.
        right, wrong: the reward of a right and of a wrong answer (arXiv 2511.08567, C.1, takes 1 and -1).
    """

    mini_batches: PositiveInt = 1
    iterations: PositiveInt = 1
    epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.2
    beta: NonNegativeFloat = 0.0
    right: FiniteFloat = 1.0
    wrong: FiniteFloat = 0.0

    @property
    def reward_values(self) -> tuple[float, float]:
        return self.right, self.wrong

    @property
    def updates(self) -> int:
        return self.mini_batches * self.iterations

    @property
    def per_update(self) -> int:
        return self.sequences // self.mini_batches

    @model_validator(mode="after")
    def _ordered_and_divided(self) -> PolicyGradient:
        if self.right <= self.wrong:
            raise ValueError(f"right {self.right} is not above wrong {self.wrong}")
        if self.sequences % self.mini_batches:
            raise ValueError(f"mini_batches does not divide {self.prompts} x {self.generations} sequences")
        return self

    def sampling_arguments(self) -> dict[str, Any]:
        return super().sampling_arguments() | {
            "num_iterations": self.iterations,
            "epsilon": self.epsilon,
            "beta": self.beta,
        }
