"""The stripe score: its null by enumeration and by simulation, and stripes that are there."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import kstest

from scramble.measures.maps.stripes import Stripes, expected_changes, stripes, upper_tail

RATES = np.array([0.0, 0.01, 0.1, 0.3, 0.6, 0.9, 1.0])


def scored(mask: np.ndarray, key: np.ndarray, used: int) -> Stripes:
    held = np.stack([(key == one).sum(axis=1) for one in range(used)], axis=1)
    return stripes(mask.sum(axis=1), held, np.bincount(key[mask], minlength=used))


@given(
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=4).filter(lambda shape: np.prod(shape) <= 9),
    st.data(),
)
def test_the_null_is_the_mean_over_all_arrangements(shape: tuple[int, int], data: st.DataObject) -> None:
    key = data.draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 1)))
    mask = data.draw(hnp.arrays(bool, shape))
    found = scored(mask, key, 2)
    p = np.array([mask[key == one].mean() if (key == one).any() else 0 for one in range(2)])[key]
    places = [np.flatnonzero(key == one) for one in range(2)]
    excess, beyond, covariance = [], [], np.zeros((shape[0], shape[0]))
    for chosen in product(*(combinations(place, mask.flat[place].sum()) for place in places)):
        other = np.zeros(mask.size, bool)
        other[[index for part in chosen for index in part]] = True
        above = other.reshape(shape).sum(axis=1) - p.sum(axis=1)
        covariance += np.outer(above, above)
        excess.append(above @ above)
        beyond.append(scored(other.reshape(shape), key, 2).beyond)
    assert found.excess == pytest.approx(((mask.sum(axis=1) - p.sum(axis=1)) ** 2).sum(), abs=1e-9)
    assert found.expected == pytest.approx(np.mean(excess), abs=1e-9)
    assert np.mean(beyond) == pytest.approx(0, abs=1e-9)
    assert found.lines == shape[0]
    covariance /= len(excess)
    spread = 2 * (covariance**2).sum() - 2 * ((p * (1 - p)) ** 2).sum()
    assert found.spread == pytest.approx(max(spread, 0), abs=1e-9)


@given(hnp.arrays(bool, st.tuples(st.integers(1, 6), st.integers(1, 6))), st.data())
def test_expected_changes_are_sums_of_probabilities(mask: np.ndarray, data: st.DataObject) -> None:
    key = data.draw(hnp.arrays(np.int64, mask.shape, elements=st.integers(0, 2)))
    held = np.stack([(key == one).sum(axis=1) for one in range(3)], axis=1)
    want = [sum(mask[key == one].mean() for one in line) for line in key]
    np.testing.assert_allclose(expected_changes(held, np.bincount(key[mask], minlength=3)), want, atol=1e-12)


def keys(rng: np.random.Generator, rows: int, columns: int, used: int) -> np.ndarray:
    """Classes that rows hold in different shares, as rows of large weights do."""
    key = rng.integers(0, used, (rows, columns))
    key[: rows // 3] = rng.integers(0, max(1, used // 3), (rows // 3, columns))
    return key


@pytest.mark.parametrize(
    ("rows", "columns", "rates"),
    [
        (40, 60, RATES),
        (96, 200, RATES),
        (12, 90, np.array([0.2])),
        (60, 80, np.array([0.02, 0.05])),
        (300, 6, np.array([0.3, 0.6])),
    ],
)
def test_p_values_are_uniform_under_the_null(rows: int, columns: int, rates: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    key = keys(rng, rows, columns, len(rates))
    draws = [scored(rng.random(key.shape) < rates[key], key, len(rates)) for _ in range(1500)]
    p = np.array([upper_tail(one.excess, one.expected, one.spread) for one in draws])
    score = np.array([one.excess / one.expected for one in draws])
    deviation = np.sqrt([one.spread for one in draws]) / [one.expected for one in draws]
    assert kstest(p, "uniform").pvalue > 1e-3
    for level in (0.05, 0.01):  # within four standard errors
        assert abs((p < level).mean() - level) < 4 * np.sqrt(level * (1 - level) / len(p))
    assert score.mean() == pytest.approx(1, abs=4 * score.std() / np.sqrt(len(p)))
    assert score.std() == pytest.approx(deviation.mean(), rel=0.1)


def test_rows_of_small_weights_are_stripes_by_chance_but_not_by_magnitude() -> None:
    rng = np.random.default_rng(2)
    key = keys(rng, 60, 120, len(RATES))
    mask = rng.random(key.shape) < RATES[key]
    alike = scored(mask, np.zeros_like(key), 1)
    assert upper_tail(alike.excess, alike.expected, alike.spread) < 1e-10
    matched = scored(mask, key, len(RATES))
    assert upper_tail(matched.excess, matched.expected, matched.spread) > 0.01


@pytest.mark.parametrize("planted", [0.02, 0.05])
def test_planted_stripes_are_found_at_their_size(planted: float) -> None:
    """Rates of rows scatter by `planted` more than sampling makes them."""
    rng = np.random.default_rng(3)
    rates = np.array([0.15, 0.3, 0.5])
    key = rng.integers(0, 3, (400, 500))
    row = rng.choice([-planted, planted], 400)
    mask = rng.random(key.shape) < rates[key] + row[:, None]
    found = scored(mask, key, 3)
    assert upper_tail(found.excess, found.expected, found.spread) < 1e-6
    assert np.sqrt(found.beyond / found.lines) == pytest.approx(planted, rel=0.15)
    across = scored(mask.T, key.T, 3)
    assert upper_tail(across.excess, across.expected, across.spread) > 1e-3


@pytest.mark.parametrize("value", [False, True])
def test_a_mask_that_leaves_nothing_to_chance_has_no_p_value(value: bool) -> None:
    found = scored(np.full((3, 4), value), np.zeros((3, 4), int), 1)
    assert found.expected == found.excess == 0
    assert np.isnan(upper_tail(found.excess, found.expected, found.spread))
