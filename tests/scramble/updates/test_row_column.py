"""The row and column fit, and the decomposition that rests on it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit

from scramble.axes import Array
from scramble.checkpoints.storage import bf16_to_float32
from scramble.updates.counts import fit_counts, fitted_rate, pair_counts
from scramble.updates.joint import count
from scramble.updates.ratios import decomposition
from scramble.updates.row_column import KEY_PENALTY, PENALTY, row_column_rate
from scramble.updates.streams import ArrayStream, Update


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.floats(0.02, 0.9))
def test_the_fit_is_the_optimum_of_the_penalised_likelihood(seed: int, density: float) -> None:
    rng = np.random.default_rng(seed)
    key = rng.integers(0, 3, (6, 5)).astype(np.uint16)
    mask = rng.random((6, 5)) < density
    used, index = np.unique(key, return_inverse=True)
    index = index.reshape(6, 5)

    def loss(x: Array) -> float:
        keys, rows, columns = np.split(x, [len(used), len(used) + 6])
        z = keys[index] + rows[:, None] + columns
        likelihood = np.sum(np.logaddexp(0, z) - mask * z)
        ridge = KEY_PENALTY / 2 * keys @ keys + PENALTY / 2 * (rows @ rows + columns @ columns)
        return float(likelihood + ridge)

    best = minimize(loss, np.zeros(len(used) + 11), method="BFGS", options={"gtol": 1e-9, "maxiter": 5000}).x
    keys, rows, columns = np.split(best, [len(used), len(used) + 6])
    expected = expit(keys[index] + rows[:, None] + columns)
    np.testing.assert_allclose(row_column_rate(mask, key), expected, atol=2e-3)


def test_every_key_keeps_its_rate_and_rows_come_close_to_theirs() -> None:
    rng = np.random.default_rng(1)
    key = rng.integers(0, 4, (80, 60)).astype(np.uint16)
    mask = rng.random((80, 60)) < expit(-2 + 0.5 * key + rng.normal(size=80)[:, None])
    p = row_column_rate(mask, key)
    for one in range(4):
        assert abs(p[key == one].mean() - mask[key == one].mean()) < 1e-4
    assert np.abs(p.mean(axis=1) - mask.mean(axis=1)).max() < 0.03


def runs(seed: int, rows: float = 0.0, shared: float = 0.0) -> tuple[Update, Update]:
    """Two runs of one bf16 matrix: change by magnitude, by row, and (a share) at common places."""
    rng = np.random.default_rng(seed)
    words = (rng.standard_normal((200, 150)).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    exponent = (words >> 7 & 0xFF).astype(float)
    p = expit(-1.5 + 0.6 * (126 - exponent) + rows * rng.normal(size=200)[:, None])
    common = rng.random(p.shape) < p

    def run() -> Update:
        own = rng.random(p.shape) < p
        mask = np.where(rng.random(p.shape) < shared, common, own)
        end = (words + mask).astype(np.uint16)
        return Update(words, end, bf16_to_float32(end) - bf16_to_float32(words), fine=False)

    return run(), run()


def parts(a: Update, b: Update) -> dict[str, float]:
    from dataclasses import asdict

    counts = pair_counts(count([ArrayStream(a), ArrayStream(b)]))
    fits = fit_counts(fitted_rate(a), fitted_rate(b))
    labels = {"level": "tensor", "layer": 0, "module": "m", "tensor": "t"}
    labels |= {"run_a": "a", "run_b": "b", "same_seed": False, "frame": "raw"}
    (row,) = decomposition(pd.DataFrame([labels | asdict(counts) | asdict(fits)])).to_dict("records")
    return row


def test_what_magnitude_explains_is_called_magnitude() -> None:
    found = parts(*runs(0))
    assert found["magnitude_share"] == pytest.approx(1, abs=0.05)
    assert found["row_column_share"] == pytest.approx(0, abs=0.05)
    assert np.isnan(found["rounding_share"])  # bf16 ends


def test_what_rows_explain_is_not_called_coordinate() -> None:
    found = parts(*runs(0, rows=1.0))
    assert found["row_column_share"] > 0.2
    assert found["coordinate_share"] == pytest.approx(0, abs=0.05)


def test_what_is_shared_place_by_place_is_left() -> None:
    found = parts(*runs(0, rows=1.0, shared=0.7))  # both draw from the common places with probability .49
    assert found["coordinate_share"] > 0.15
    assert found["coordinate_share_low"] > 0
    total = sum(found[name] for name in ("magnitude", "row_column", "coordinate"))
    assert total == pytest.approx(found["above_chance"])


def test_the_interval_covers_zero_where_nothing_is_shared() -> None:
    covered = 0
    for seed in range(100):
        found = parts(*runs(seed, rows=0.5))
        covered += found["coordinate_share_low"] < 0 < found["coordinate_share_high"]
    assert 88 <= covered <= 100


def test_no_shares_where_nothing_exceeds_chance() -> None:
    rng = np.random.default_rng(0)
    words = np.full((50, 40), 0x3F80 + 1, dtype=np.uint16)
    ends = [(words + (rng.random(words.shape) < 0.1)).astype(np.uint16) for _ in range(2)]
    a, b = (Update(words, end, bf16_to_float32(end) - bf16_to_float32(words), fine=False) for end in ends)
    assert np.isnan(parts(a, b)["coordinate_share"])
