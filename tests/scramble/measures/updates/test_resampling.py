"""Intervals from leaving out runs: exact variance, coverage, refusals."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

from scramble.measures.updates.resampling import resampled


def pairs(runs: int, rng: np.random.Generator, *, within: bool, own: float = 1.0) -> pd.DataFrame:
    """Values that are what each run brings, and noise of the pair; their expectation is zero."""
    one, other = rng.standard_normal((2, runs))
    chosen = combinations(range(runs), 2) if within else product(range(runs), repeat=2)
    return pd.DataFrame(
        {
            "run_a": f"a{a}",
            "run_b": f"a{b}" if within else f"b{b}",
            "value": one[a] + (one if within else other)[b] + own * rng.standard_normal(),
        }
        for a, b in chosen
    )


@pytest.mark.parametrize("within", [True, False])
@pytest.mark.parametrize("runs", [4, 6, 8])
@pytest.mark.train
def test_the_interval_covers_the_mean(runs: int, within: bool) -> None:
    """Within an arm near 95 %; across two arms more: the quantile takes one arm's degrees of freedom."""
    rng, covered = np.random.default_rng(runs), 0
    for _ in range(400):
        found = resampled(pairs(runs, rng, within=within), ["value"], within=within).loc["value"]
        covered += found["low"] <= 0 <= found["high"]
    assert 0.925 <= covered / 400 <= 0.995


def test_where_pairs_are_sums_it_is_students_interval_of_the_runs() -> None:
    table = pairs(6, np.random.default_rng(0), within=True, own=0.0)
    found = resampled(table, ["value"], within=True).loc["value"]
    effects = np.random.default_rng(0).standard_normal((2, 6))[0]
    half = student.ppf(0.975, 5) * 2 * effects.std(ddof=1) / np.sqrt(6)
    assert found["mean"] == pytest.approx(2 * effects.mean())
    assert (found["high"] - found["low"]) / 2 == pytest.approx(half)


def test_three_runs_have_no_interval() -> None:
    found = resampled(pairs(3, np.random.default_rng(0), within=True), ["value"], within=True)
    assert found[["low", "high"]].isna().all(axis=None)
    assert found["mean"].notna().all()


def test_a_missing_value_is_not_averaged_away() -> None:
    table = pairs(5, np.random.default_rng(0), within=False)
    table.loc[3, "value"] = np.nan
    assert resampled(table, ["value"], within=False).isna().all(axis=None)


def test_pairs_that_are_not_there_are_left_out() -> None:
    table = pairs(5, np.random.default_rng(0), within=False).iloc[1:]
    found = resampled(table, ["value"], within=False).loc["value"]
    assert found["mean"] == pytest.approx(table["value"].mean())
    assert np.isfinite(found["high"])
