"""The `kl` of a recipe: how far the policy is from the start, on completions that never change."""

from __future__ import annotations

from pydantic import PositiveInt

from scramble.runs.section import Section


class Kl(Section):
    """Measured in the last step too; metric `kl_to_start`. It changes nothing that training draws.

    Attributes:
        every: steps between two measurements.
        prompts: so many of the task's first prompts, one completion each.
        max_new_tokens: the most that a completion has. The start's log-probabilities are kept:
            `4 * prompts * max_new_tokens * vocabulary` bytes.
        seed: of the sampling of the completions from the start.
    """

    every: PositiveInt
    prompts: PositiveInt = 16
    max_new_tokens: PositiveInt = 32
    seed: int = 0
