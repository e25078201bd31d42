"""Any data set of reasoning-gym, by name. Its scores give partial credit, so answers are compared here."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from runs.tasks.example import Example
from runs.tasks.task import GeneratedTask, PatternTask
from scramble.errors import MissingDependencyError, RecipeError


class ReasoningGym(GeneratedTask, PatternTask):
    """A procedural data set.

    Attributes:
        dataset: its name in reasoning-gym.
        options: its own settings.
        template: the prompt, with `{question}`.
    """

    name: Literal["reasoning-gym"]
    dataset: str
    options: dict[str, Any] = Field(default_factory=dict)
    template: str = "{question}\nAnswer:"
    answer_pattern: str = r"\s*([^\n]+)"

    def examples(self) -> list[Example]:
        """All prompts.

        Raises:
            RecipeError: no such data set, it refuses the options, or it has no single right answer.
            MissingDependencyError: reasoning-gym is not installed.
        """
        try:
            import reasoning_gym
        except ImportError:
            raise MissingDependencyError(
                "reasoning-gym is not installed: pip install 'scramble[runs]'"
            ) from None
        try:
            data = reasoning_gym.create_dataset(self.dataset, seed=self.seed, size=self.size, **self.options)
        except (ValueError, TypeError, AssertionError) as error:
            raise RecipeError(f"task: reasoning-gym '{self.dataset}' with {self.options}: {error}") from None
        examples = []
        for item in data:
            if not isinstance(item["answer"], str):
                raise RecipeError(
                    f"task: reasoning-gym '{self.dataset}' scores answers by a program; "
                    "it has no single right answer to compare with"
                )
            examples.append(Example(self.template.replace("{question}", item["question"]), item["answer"]))
        return examples
