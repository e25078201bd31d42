"""The row and column fit, and the decomposition that rests on it."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit

from scramble.architecture.axes import Array
from scramble.checkpoints.storage import bf16_to_float32
from scramble.measures.pairs.streams import ArrayStream, Update
from scramble.measures.updates.coordinate import row_column_counts
from scramble.measures.updates.counts import fitted, pair_counts
from scramble.measures.updates.joint import Joint, count
from scramble.measures.updates.ratios import decomposition
from scramble.measures.updates.row_column import KEY_PENALTY, PENALTY, fit_row_column, row_column_rate


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

    def gradient(x: Array) -> Array:
        keys, rows, columns = np.split(x, [len(used), len(used) + 6])
        off = expit(keys[index] + rows[:, None] + columns) - mask
        by_key = np.bincount(index.ravel(), off.ravel()) + KEY_PENALTY * keys
        return np.concatenate([by_key, off.sum(axis=1) + PENALTY * rows, off.sum(axis=0) + PENALTY * columns])

    options = {"gtol": 1e-9, "maxiter": 5000}
    best = minimize(loss, np.zeros(len(used) + 11), jac=gradient, method="BFGS", options=options).x
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


def joint(a: Update, b: Update) -> Joint:
    return count([ArrayStream(a), ArrayStream(b)])


def parts(a: Update, b: Update) -> dict[str, float]:
    counts = asdict(pair_counts(joint(a, b))) | asdict(row_column_counts(fitted(a), fitted(b)))
    labels = {"level": "tensor", "layer": 0, "module": "m", "tensor": "t"}
    labels |= {"run_a": "a", "run_b": "b", "same_seed": False, "frame": "raw"}
    (row,) = decomposition(pd.DataFrame([labels | counts])).to_dict("records")
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


def test_no_shares_where_nothing_exceeds_chance() -> None:
    rng = np.random.default_rng(0)
    words = np.full((50, 40), 0x3F80 + 1, dtype=np.uint16)
    ends = [(words + (rng.random(words.shape) < 0.1)).astype(np.uint16) for _ in range(2)]
    a, b = (Update(words, end, bf16_to_float32(end) - bf16_to_float32(words), fine=False) for end in ends)
    assert np.isnan(parts(a, b)["coordinate_share"])


def test_residuals_are_uncorrelated_with_what_the_fit_knows() -> None:
    """With rates by key alone, products of residuals and `X - sum pA pB` are one number."""
    a, b = runs(3)
    flat = [Update(*(part.reshape(1, -1) for part in (u.start, u.end, u.delta)), fine=False) for u in (a, b)]
    found = parts(*flat)
    assert found["row_column"] == pytest.approx(0, abs=0.02 * found["n"] ** 0.5)
    one, other = (fitted(u) for u in flat)
    rates = one.fit.rates(one.key), other.fit.rates(other.key)
    assert (rates[0] * rates[1]).sum() == pytest.approx(
        asdict(pair_counts(joint(a, b)))["magnitude_matched"], rel=1e-9
    )
    assert found["coordinate_low"] < found["coordinate"] < found["coordinate_high"]


def test_pair_sums_agree_with_their_definition() -> None:
    one, other = (fitted(update) for update in runs(5, rows=1.0, shared=0.5))
    p, q = one.fit.rates(one.key), other.fit.rates(other.key)
    found = row_column_counts(one, other)
    assert found.row_column_matched_a == pytest.approx(p.sum())
    assert found.row_column_matched_b == pytest.approx(q.sum())
    u, v = p * (1 - p), q * (1 - q)
    leverage = []
    for w, run in ((u, one), (v, other)):
        by_key = np.bincount(run.key.ravel(), w.ravel(), minlength=512)[run.key] + KEY_PENALTY
        by_row, by_column = w.sum(axis=1)[:, None] + PENALTY, w.sum(axis=0) + PENALTY
        leverage.append(1 - (1 - w / by_key) * (1 - w / by_row) * (1 - w / by_column))
    free = 1 - (leverage[0] + leverage[1]) / 2
    x, y = one.mask - p, other.mask - q
    factor = np.sqrt(u * v).sum() / (np.sqrt(u * v) * free).sum()
    expected = (one.mask & other.mask).sum() - factor * (x * y).sum()
    assert found.row_column_matched == pytest.approx(expected, rel=1e-6)
    counted = x * y / np.sqrt(free)
    above = counted + x * (q - other.mask.mean()) + y * (p - one.mask.mean())
    assert found.row_column_matched_variance == pytest.approx(factor**2 * (counted**2).sum(), rel=1e-5)
    assert found.row_column_matched_covariance == pytest.approx(factor * (counted * above).sum(), rel=1e-5)
    assert found.above_chance_variance == pytest.approx((above**2).sum(), rel=1e-5)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.floats(0.001, 0.999), st.floats(0, 4))
def test_the_fit_converges_on_hard_masks(seed: int, density: float, rows: float) -> None:
    """Rows, columns and keys that never or always change, and keys that follow the rows."""
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(2, 40, 2))
    key = (rng.integers(0, 9, shape) + 100 * rng.integers(0, 2, (shape[0], 1))).astype(np.uint16)
    mask = rng.random(shape) < expit(np.log(density / (1 - density)) + rows * rng.normal(size=(shape[0], 1)))
    mask[rng.random(shape[0]) < 0.2] = rng.random() < 0.5
    fit = fit_row_column(mask, key)
    p = fit.rates(key)
    np.testing.assert_allclose((mask - p).sum(axis=1), PENALTY * fit.rows, atol=1e-4)
    np.testing.assert_allclose((mask - p).sum(axis=0), PENALTY * fit.columns, atol=1e-4)
