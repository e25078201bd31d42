"""Tasks: prompts with answers, and a check that is exact; pairs for training on preferences."""

from scramble.runs.tasks.code import Code
from scramble.runs.tasks.data.example import Example, Message, Prompt, said, shown
from scramble.runs.tasks.data.task import VerifiableTask
from scramble.runs.tasks.few_shot_sums import FewShotSums
from scramble.runs.tasks.jsonl import Jsonl
from scramble.runs.tasks.math import Math
from scramble.runs.tasks.preference import Preference, PreferencePairs
from scramble.runs.tasks.reasoning_gym import ReasoningGym
from scramble.runs.tasks.tools import Tools

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
