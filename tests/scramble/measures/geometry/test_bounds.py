"""The bounds hold on any weights, are tight where theory says so, and notice a wrong figure."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scramble.errors import BoundError
from scramble.measures.geometry.bounds import check_bounds
from scramble.measures.geometry.spectra import spectrum
from tests.scramble.measures.geometry.weights import planted

SEEDS = st.integers(0, 2**32 - 1)
START, END, UPDATE = np.array([9.0, 5, 4, 1]), np.array([9.5, 5.5, 3, 1]), np.array([1.0, 0.6, 0.5, 0.1])


@given(SEEDS, st.integers(2, 20), st.integers(2, 20), st.floats(-17, 2), st.integers(1, 10))
def test_bounds_hold_on_random_weights(seed: int, rows: int, columns: int, size: float, rank: int) -> None:
    rng = np.random.default_rng(seed)
    start = rng.standard_normal((rows, columns))
    end = start + 10.0**size * rng.standard_normal((rows, columns))
    found = spectrum("w", start, end, rank).bounds
    assert 0 <= max(found.weyl, found.hoffman_wielandt, found.ky_fan) <= 1
    assert np.isnan(found.wedin) == np.isnan(found.wedin_bound)


@given(SEEDS, st.floats(-16, -1), st.floats(-18, 0), st.booleans())
def test_bounds_hold_where_singular_values_nearly_meet(
    seed: int, spread: float, size: float, lost: bool
) -> None:
    rng = np.random.default_rng(seed)
    values = 1 + 10.0**spread * np.arange(12, 0, -1.0)
    values[8:] *= 0 if lost else 1
    start = planted(rng, 16, 14, values)
    spectrum("w", start, start + 10.0**size * rng.standard_normal(start.shape), 4)


@pytest.mark.parametrize("size", [0.0, 1e-12, 1.0])
def test_bounds_are_tight_for_an_update_along_the_first_direction(size: float) -> None:
    start = planted(np.random.default_rng(1), 8, 6, np.array([9.0, 5, 4, 3, 2, 1]))
    u, _, vt = np.linalg.svd(start)
    found = spectrum("w", start, start + size * np.outer(u[:, 0], vt[0]), 2).bounds
    if size == 1:
        assert [found.weyl, found.hoffman_wielandt, found.ky_fan] == pytest.approx([1] * 3, abs=1e-10)
    assert found.gap == pytest.approx(1)
    assert found.wedin < 1e-10 or size < 1


def test_wedin_is_tight_for_a_turn_of_the_gap() -> None:
    angle = 1e-3
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    start = np.diag([2.0, 0.0])
    found = spectrum("w", start, turn @ start, 1).bounds
    assert 0.99 < found.wedin <= 1
    assert found.wedin_bound == pytest.approx(np.degrees(angle), rel=1e-3)


def test_wedin_is_passed_over_where_the_gap_is_not_positive() -> None:
    found = check_bounds("w", np.array([2.0, 1.9]), np.array([1.8, 1.0]), np.array([1.0, 0.9]), 1.0, 1, 4)
    assert np.isnan(found.wedin)
    assert found.gap == pytest.approx(-0.1)


@pytest.mark.parametrize(
    ("name", "start", "end", "update", "sine"),
    [
        ("weyl", START, END, UPDATE * [0.99, 1, 1, 1], 0.1),
        ("hoffman_wielandt", START, END, UPDATE * [1, 0.5, 0.5, 1], 0.1),
        ("ky_fan", START, START - [1, 1, 0, 0], np.array([1.42, 0.4, 0.1, 0]), 0.1),
        ("wedin", START, END, UPDATE, 0.67),
        ("weyl", START, END * [1, 1, 1, np.nan], UPDATE, 0.1),
    ],
)
def test_a_wrong_figure_is_an_error_of_its_own(
    name: str, start: np.ndarray, end: np.ndarray, update: np.ndarray, sine: float
) -> None:
    check_bounds("good", START, END, UPDATE, 0.66, 2, 8)
    with pytest.raises(BoundError, match=f"'mlp.weight' breaks the bound {name} .* a bug in scramble"):
        check_bounds("mlp.weight", start, end, update, sine, 2, 8)


def test_bounds_see_an_error_far_below_the_update() -> None:
    """The slack is no cover: a shift of one part in 1e9 beyond Weyl's bound is refused."""
    update = np.array([1e-3, 0, 0, 0])
    shifted = START + update
    check_bounds("w", START, shifted, update, 0.0, 2, 8)
    with pytest.raises(BoundError, match="weyl"):
        check_bounds("w", START, shifted + 1e-9 * update, update, 0.0, 2, 8)
