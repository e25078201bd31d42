"""The expected overlap: against simulated updates, and against its definition number by number."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from scramble.checkpoints import STORAGES
from scramble.measures.updates.expected import Expected, change_probabilities, expected_overlap

BF16 = STORAGES["BF16"]


def words(rng: np.random.Generator, n: int) -> np.ndarray:
    """Weights of many magnitudes, powers of two and zeros among them."""
    values = rng.standard_normal(n) * 10.0 ** rng.uniform(-3, 0, n)
    values[: n // 10] = 2.0 ** rng.integers(-9, 0, n // 10)
    values[: n // 50] = 0
    return BF16.encode(values)


@given(st.floats(-4, -2), st.integers(0, 100))
def test_simulated_updates_change_what_is_expected(exponent: float, seed: int) -> None:
    rng, n, sigma = np.random.default_rng(seed), 40_000, 10.0**exponent
    starts = words(rng, n), words(rng, n)
    changed = [BF16.encode(BF16.decode(start) + sigma * rng.standard_normal(n)) != start for start in starts]
    found = expected_overlap(*starts, change_probabilities(sigma))
    for have, want in (
        (changed[0].sum(), found.a),
        (changed[1].sum(), found.b),
        ((changed[0] & changed[1]).sum(), found.both),
    ):
        assert abs(have - want) < 6 * np.sqrt(n) / 2
    assert found.chance == pytest.approx(found.a * found.b / n)


@pytest.mark.parametrize("value", [1.0, 1.0078125, 0.75, 0.0, 3e38, 1e-39])
def test_a_weight_changes_beyond_half_the_gaps_beside_it(value: float) -> None:
    (encoded,), sigma = BF16.encode(np.array([value])), 0.004
    word = int(encoded)
    here, *near = BF16.decode(np.array([word, word + 1, word - 1 if word else 1], np.uint16))
    gaps = [abs(one - here) for one in near]
    want = sum(norm.sf(gap / 2 / sigma) for gap in gaps)
    assert change_probabilities(sigma)[word] == pytest.approx(want, rel=1e-12)


@given(st.floats(1e-8, 1), st.floats(1, 10))
def test_larger_updates_change_no_weight_less(sigma: float, factor: float) -> None:
    small, large = change_probabilities(sigma), change_probabilities(sigma * factor)
    assert (large >= small).all()
    assert ((small >= 0) & (large <= 1)).all()
    assert (large[0x7F80:] == 0).all()


@given(st.integers(0, 100), st.integers(0, 40))
def test_counts_add_up_over_parts(seed: int, cut: int) -> None:
    rng, probabilities = np.random.default_rng(seed), change_probabilities(1e-3)
    a, b = words(rng, 40), words(rng, 40)
    whole = expected_overlap(a, b, probabilities)
    parts = expected_overlap(a[:cut], b[:cut], probabilities) + expected_overlap(
        a[cut:], b[cut:], probabilities
    )
    for name in ("n", "a", "b", "both"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name))


def test_without_a_change_there_is_no_ratio() -> None:
    assert np.isnan(Expected().jaccard)
    assert np.isnan(Expected(5, 0, 0, 0, 0).chance_jaccard)
