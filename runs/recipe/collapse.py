"""The `collapse` of a recipe: a run that breaks down is a result and not a failure."""

from __future__ import annotations

import math
from typing import Any

from pydantic import FiniteFloat, PositiveFloat, PositiveInt

from scramble.runs.section import Section


class Collapse(Section):
    """When training is over because the policy has broken down.

    At once if loss, gradient, weights or the probabilities that are sampled from are not finite; else where
    one of these limits was passed `patience` times in a row, steps without a measurement left out.

    Attributes:
        reward_below: of the mean reward of the samples.
        kl_above: of `kl_to_start`, nats a token, which needs the section `kl`.
        grad_norm_above: of the gradient before it is clipped.
    """

    reward_below: FiniteFloat | None = None
    kl_above: PositiveFloat | None = None
    grad_norm_above: PositiveFloat | None = None
    patience: PositiveInt = 1


class Watch:
    """Counts how often in a row each limit was passed."""

    def __init__(self, limits: Collapse) -> None:
        self.limits = limits
        self.passed = {"reward": 0, "kl_to_start": 0, "grad_norm": 0}

    def kept(self) -> dict[str, Any]:
        return dict(self.passed)

    def restore(self, kept: dict[str, Any]) -> None:
        self.passed = dict(kept)

    def see(self, row: dict[str, Any]) -> str | None:
        """Which limit was passed often enough with a step's row of metrics; None if none was."""
        limits = self.limits
        for name, low, high in (
            ("reward", limits.reward_below, None),
            ("kl_to_start", None, limits.kl_above),
            ("grad_norm", None, limits.grad_norm_above),
        ):
            value = row.get(name)
            if value is None:
                continue
            below, above = low is not None and value < low, high is not None and value > high
            self.passed[name] = self.passed[name] + 1 if below or above else 0
            if self.passed[name] >= limits.patience:
                word, limit = ("below", low) if below else ("above", high)
                return f"{name} is {value:.4g}, {word} {limit:g}" + _times(limits.patience)
        return None


def not_finite(row: dict[str, Any]) -> str | None:
    """What of a step's row is not finite and should be; None if all is."""
    for name in ("loss", "grad_norm"):
        if not math.isfinite(row.get(name, 0.0)):
            return f"{name} is {row[name]}"
    return None


def _times(patience: int) -> str:
    return f", {patience} times in a row" if patience > 1 else ""
