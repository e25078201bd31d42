"""Verifiable tasks: prompts with answers, and a check that is exact after extraction."""

from runs.tasks.few_shot_sums import FewShotSums
from runs.tasks.reasoning_gym import ReasoningGym
from runs.tasks.task import Example

Task = FewShotSums | ReasoningGym

__all__ = ["Example", "FewShotSums", "ReasoningGym", "Task"]
