"""pass@k: the estimator against its definition, and intervals that cover what they should."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scramble.runs.recipe.evaluation import Evaluation, estimate, gain, pass_at_k, wilson


@given(st.integers(1, 8), st.data())
def test_pass_at_k_is_the_share_of_draws_with_a_right_sample(samples: int, data: st.DataObject) -> None:
    right, k = data.draw(st.integers(0, samples)), data.draw(st.integers(1, samples))
    draws = list(itertools.combinations([True] * right + [False] * (samples - right), k))
    assert pass_at_k(samples, right, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_k_has_no_bias() -> None:
    """Its mean over draws of the samples is 1 - (1 - p)^k."""
    p, samples, k = 0.3, 6, 3
    weights = [math.comb(samples, right) * p**right * (1 - p) ** (samples - right) for right in range(7)]
    mean = sum(weight * pass_at_k(samples, right, k) for right, weight in enumerate(weights))
    assert mean == pytest.approx(1 - (1 - p) ** k)


def test_intervals_hold_the_mean_and_say_how_they_are_made() -> None:
    found = estimate([0, 1, 4, 2, 0, 3], 4, 1)
    assert found["pass"] == pytest.approx(10 / 24)
    assert found["interval"] == "bootstrap over problems"
    assert 0 <= found["low"] < found["pass"] < found["high"] <= 1
    assert found == estimate([0, 1, 4, 2, 0, 3], 4, 1)
    for right, mean in (([0, 0, 0], 0.0), ([4, 4, 4], 1.0)):
        flat = estimate(right, 4, 4)
        assert (flat["pass"], flat["interval"]) == (mean, "Wilson")
        assert flat["high"] - flat["low"] > 0.5
    assert estimate([0, 1, 1], 1, 1)["interval"] == "Wilson"


@pytest.mark.parametrize(("share", "n", "low", "high"), [(0.5, 10, 0.2366, 0.7634), (0.0, 10, 0.0, 0.2775)])
def test_wilson_against_a_published_table(share: float, n: int, low: float, high: float) -> None:
    """Newcombe 1998 (Statistics in Medicine 17:857), method 3."""
    assert wilson(share, n) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_the_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = random.Random(0)
    covered = 0
    for _ in range(60):
        chances = [rng.random() for _ in range(80)]
        right = [sum(rng.random() < chance for _ in range(4)) for chance in chances]
        found = estimate(right, 4, 1)
        covered += found["low"] <= 0.5 <= found["high"]
    assert 50 <= covered <= 60


def test_the_gain_is_paired() -> None:
    """The same gain on every problem has no spread, however different the problems are."""
    before, after = [0, 1, 2, 0, 1, 2], [1, 2, 3, 1, 2, 3]
    assert gain(before, after, 4, 1) == {"k": 1, "pass": 0.25, "low": None, "high": None, "interval": None}
    found = gain(before, [1, 2, 3, 1, 2, 2], 4, 1)
    assert 0 < found["low"] < found["pass"] < found["high"] <= 0.25


def test_settings_that_contradict_are_refused() -> None:
    with pytest.raises(ValueError, match="pass@8 needs 8 samples, there are 4"):
        Evaluation(samples=4, k=(1, 8))
    with pytest.raises(ValueError, match="at temperature 0 all samples are the same"):
        Evaluation(samples=4, temperature=0)
    assert Evaluation(samples=1, k=(1,), temperature=0).k == (1,)
