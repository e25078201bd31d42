"""Aggregation over pairs, and intervals from resampled runs."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from scramble.interventions.contrast import METRICS, _aggregate


def pairs(arm_a: str, arm_b: str, effects: dict[tuple[str, int], float], noise: float = 0.0) -> pd.DataFrame:
    """Pairs whose Jaccard is the sum of what each run brings."""
    rng = np.random.default_rng(0)
    runs_a, runs_b = ([run for run in effects if run[0] == arm] for arm in (arm_a, arm_b))
    chosen = itertools.combinations(runs_a, 2) if arm_a == arm_b else itertools.product(runs_a, runs_b)
    rows = []
    for a, b in chosen:
        if a[1] == b[1]:
            continue
        value = effects[a] + effects[b] + noise * rng.standard_normal()
        row = dict.fromkeys(METRICS, value) | {"density_a": 0.1, "density_b": 0.1, "n": 100}
        row |= {
            "arm": "x",
            "contrast": f"{arm_a} x {arm_b}",
            "same_seed": False,
            "frame": "raw",
            "treatment": "t",
        }
        rows.append(row | {"arm_a": arm_a, "arm_b": arm_b, "seed_a": a[1], "seed_b": b[1]})
    return pd.DataFrame(rows)


def simulate(runs: int, seed: int, spread: float) -> dict[tuple[str, int], float]:
    rng = np.random.default_rng(seed)
    return {(arm, s): 0.2 + spread * rng.standard_normal() for arm in ("x", "y") for s in range(runs)}


@pytest.mark.parametrize("arms", [("x", "x"), ("x", "y")])
def test_few_runs_give_points_and_four_give_an_interval(arms: tuple[str, str]) -> None:
    for runs, has in ((2, False), (3, False), (4, True), (6, True)):
        (row,) = _aggregate(pairs(*arms, simulate(runs, 0, 0.01)), ["treatment"]).to_dict("records")
        assert np.isfinite(row["jaccard_low"]) == has
        if has:
            assert row["jaccard_low"] < row["jaccard"] < row["jaccard_high"]


def test_an_arm_with_too_few_runs_denies_the_interval_to_its_contrast() -> None:
    effects = {run: value for run, value in simulate(5, 0, 0.01).items() if run[0] == "x" or run[1] < 3}
    (row,) = _aggregate(pairs("x", "y", effects), ["treatment"]).to_dict("records")
    assert np.isnan(row["jaccard_low"])


def test_runs_are_resampled_and_not_pairs() -> None:
    """Eight runs make 28 pairs; the spread is that of eight runs, far wider than 28 free pairs would give."""
    widths, means = [], []
    for seed in range(30):
        (row,) = _aggregate(pairs("x", "x", simulate(8, seed, 0.02)), ["treatment"]).to_dict("records")
        widths.append(row["jaccard_high"] - row["jaccard_low"])
        means.append(row["jaccard"])
    true_width = 2 * 1.96 * np.std(means)
    assert 0.6 * true_width < np.mean(widths) < 1.4 * true_width
    free_pairs = 2 * 1.96 * 0.02 * np.sqrt(2) / np.sqrt(28)
    assert np.mean(widths) > 1.3 * free_pairs


def test_identical_pairs_have_an_interval_of_no_width() -> None:
    (row,) = _aggregate(pairs("x", "y", simulate(4, 0, 0.0)), ["treatment"]).to_dict("records")
    assert row["jaccard_low"] == pytest.approx(0.4) == row["jaccard_high"]
