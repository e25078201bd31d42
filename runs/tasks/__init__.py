"""Tasks: prompts with answers, and a check that is exact; pairs for training on preferences."""

from runs.tasks.code import Code
from runs.tasks.example import Example, Message, Prompt, said, shown
from runs.tasks.few_shot_sums import FewShotSums
from runs.tasks.jsonl import Jsonl
from runs.tasks.math import Math
from runs.tasks.preference import Preference, PreferencePairs
from runs.tasks.reasoning_gym import ReasoningGym
from runs.tasks.task import VerifiableTask
from runs.tasks.tools import Tools

Task = FewShotSums | ReasoningGym | Jsonl | Math | Code | Tools | PreferencePairs

__all__ = [
    "Code",
    "Example",
    "FewShotSums",
    "Jsonl",
    "Math",
    "Message",
    "Preference",
    "PreferencePairs",
    "Prompt",
    "ReasoningGym",
    "Task",
    "Tools",
    "VerifiableTask",
    "said",
    "shown",
]
