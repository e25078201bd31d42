"""What a recipe asks for under `evaluation`, and pass@k with intervals from counts of right samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from scramble.runs.section import Section

_RESAMPLES, _Z95 = 2000, 1.959963984540054


class Evaluation(Section):
    """pass@k on prompts that are not trained on, before and after training.

    Attributes:
        size: different prompts.
        samples: completions of each.
        k: which pass@k; none above `samples`.
        temperature: of the samples; 0 takes the likeliest token, and then one sample.
        every: also after every so many steps.
        max_new_tokens: the algorithm's by default.
        batch: completions that are sampled at once.
    """

    size: PositiveInt = 128
    samples: PositiveInt = 4
    k: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 4)
    temperature: NonNegativeFloat = 1.0
    every: PositiveInt | None = None
    max_new_tokens: PositiveInt | None = None
    batch: PositiveInt = 64

    @model_validator(mode="after")
    def _enough_samples(self) -> Evaluation:
        if max(self.k) > self.samples:
            raise ValueError(f"pass@{max(self.k)} needs {max(self.k)} samples, there are {self.samples}")
        if self.temperature == 0 and self.samples > 1:
            raise ValueError("at temperature 0 all samples are the same: set samples to 1")
        return self


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Probability that one of k samples is right, without bias (arXiv 2107.03374, eq. 1)."""
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def estimate(right: Sequence[int], samples: int, k: int) -> dict[str, Any]:
    """Mean pass@k over problems, and a 95 % interval.

    The interval resamples problems (percentile bootstrap, 2000 draws of a fixed seed). With one sample a
    problem, or where all problems have the same estimate, so that resampling shows no spread, it is Wilson's.

    Args:
        right: right samples of each problem.
    """
    values = [pass_at_k(samples, count, k) for count in right]
    mean = sum(values) / len(values)
    if samples == 1 or len(set(values)) == 1:
        (low, high), method = wilson(mean, len(values)), "Wilson"
    else:
        (low, high), method = _bootstrap(values), "bootstrap over problems"
    return {"k": k, "pass": mean, "low": low, "high": high, "interval": method}


def gain(before: Sequence[int], after: Sequence[int], samples: int, k: int) -> dict[str, Any]:
    """Mean difference of pass@k on the same problems, and a 95 % interval; None if all differ alike."""
    pairs = zip(before, after, strict=True)
    values = [pass_at_k(samples, late, k) - pass_at_k(samples, early, k) for early, late in pairs]
    low, high = _bootstrap(values) if len(set(values)) > 1 else (None, None)
    method = "bootstrap over problems" if low is not None else None
    return {"k": k, "pass": sum(values) / len(values), "low": low, "high": high, "interval": method}


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n (JASA 1927, 22:209)."""
    z2 = _Z95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def _bootstrap(values: Sequence[float]) -> tuple[float, float]:
    import numpy

    draws = numpy.random.default_rng(0).integers(len(values), size=(_RESAMPLES, len(values)))
    low, high = numpy.quantile(numpy.asarray(values)[draws].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)
