"""Sums after two solved ones: `7+12=19\\n3+15=18\\n9+4=`. Small base models learn it in tens of steps."""

from __future__ import annotations

import random
from typing import Literal

from pydantic import NonNegativeInt, model_validator

from scramble.runs.tasks.data.example import Example
from scramble.runs.tasks.data.task import GeneratedTask, PatternTask


class FewShotSums(GeneratedTask, PatternTask):
    """Addition with `shots` solved examples.

    Attributes:
        low, high: the smallest and largest operand.
    """

    name: Literal["few-shot-sums"]
    shots: NonNegativeInt = 2
    low: int = 2
    high: int = 19
    answer_pattern: str = r"\s*(-?\d+)"

    @model_validator(mode="after")
    def _ordered(self) -> FewShotSums:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self

    def examples(self) -> list[Example]:
        rng = random.Random(self.seed)
        return [self._example(rng) for _ in range(self.size)]

    def _example(self, rng: random.Random) -> Example:
        *shots, (a, b) = [
            (rng.randint(self.low, self.high), rng.randint(self.low, self.high))
            for _ in range(self.shots + 1)
        ]
        solved = "".join(f"{x}+{y}={x + y}\n" for x, y in shots)
        return Example(f"{solved}{a}+{b}=", str(a + b))
