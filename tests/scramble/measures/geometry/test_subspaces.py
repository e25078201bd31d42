"""Principal angles: planted ones come back, however small; laws of the spectrum."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import subspace_angles

from scramble.measures.geometry.spectra import spectrum
from scramble.measures.geometry.subspaces import decompose, limited, principal_angles, singular_values
from tests.scramble.measures.geometry.weights import orthonormal, planted

SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.integers(1, 8)


@given(SEEDS, SIZES, SIZES)
def test_a_subspace_makes_no_angle_with_itself_in_any_basis(seed: int, k: int, more: int) -> None:
    rng = np.random.default_rng(seed)
    basis = orthonormal(rng, k + more, k)
    turned = basis @ orthonormal(rng, k, k)
    assert principal_angles(basis, turned).max() < 1e-14


@given(
    st.lists(st.floats(1e-12, math.pi / 2) | st.floats(1e-9, 1e-5), min_size=1, max_size=5),
)
def test_planted_angles_come_back_to_ten_digits(angles: list[float]) -> None:
    k = len(angles)
    a, b = np.eye(2 * k)[:, :k], np.zeros((2 * k, k))
    b[range(k), range(k)], b[range(k, 2 * k), range(k)] = np.cos(angles), np.sin(angles)
    assert principal_angles(a, b) == pytest.approx(sorted(angles), rel=1e-10)


@pytest.mark.parametrize("angle", [1e-7, 1e-4, 0.3, math.pi / 4, 1.5])
@given(seed=SEEDS)
def test_planted_angles_come_back_in_random_coordinates(angle: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    frame = orthonormal(rng, 12, 6)
    a = frame[:, :3]
    b = a * np.cos(angle) + frame[:, 3:] * np.sin(angle)
    # Entries of a and b are rounded to 1e-16: no method can do better than that.
    assert principal_angles(a @ orthonormal(rng, 3, 3), b) == pytest.approx([angle] * 3, rel=1e-10, abs=3e-15)


@given(SEEDS, SIZES, SIZES)
def test_angles_are_scipys_and_symmetric(seed: int, k: int, more: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = orthonormal(rng, k + more, k), orthonormal(rng, k + more, k)
    found = principal_angles(a, b)
    # Where the two must share a direction, scipy's are off from 0 by the square root of a rounding error.
    assert found == pytest.approx(subspace_angles(a, b)[::-1], abs=1e-7)
    assert found == pytest.approx(principal_angles(b, a), abs=1e-13)
    assert (np.diff(found) >= -1e-15).all()


@given(SEEDS, st.integers(4, 12), st.integers(4, 12))
def test_spectra_do_not_depend_on_the_frame(seed: int, rows: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    start = rng.standard_normal((rows, columns))
    end = start + 0.1 * rng.standard_normal((rows, columns))
    left, right = orthonormal(rng, rows, rows), orthonormal(rng, columns, columns)
    plain = spectrum("w", start, end, 2)
    turned = spectrum("w", left @ start @ right, left @ end @ right, 2)
    assert turned.start == pytest.approx(plain.start, abs=1e-12)
    assert turned.end == pytest.approx(plain.end, abs=1e-12)
    for name in ("angles_left", "angles_right"):
        assert getattr(turned, name) == pytest.approx(getattr(plain, name), abs=1e-6)


def test_a_planted_rotation_of_one_side_is_seen_on_that_side_only() -> None:
    rng = np.random.default_rng(0)
    start = planted(rng, 30, 20, np.linspace(9, 3, 20))
    angle = np.radians(0.01)
    found = decompose(start)
    turned = found.left.copy()
    turned[:, 4] = found.left[:, 4] * np.cos(angle) + found.left[:, 5] * np.sin(angle)
    turned[:, 5] = found.left[:, 5] * np.cos(angle) - found.left[:, 4] * np.sin(angle)
    one = spectrum("w", start, (turned * found.values) @ found.right, 5)
    assert one.angles_left == pytest.approx([0, 0, 0, 0, 0.01], abs=1e-10)
    assert one.angles_right == pytest.approx([0] * 5, abs=1e-10)
    assert one.start == pytest.approx(one.end, abs=1e-12)
    assert one.angle_resolution < 1e-10


def test_an_untouched_weight_has_angles_of_exactly_zero() -> None:
    start = np.random.default_rng(0).standard_normal((6, 9))
    one = spectrum("w", start, start.copy(), 3)
    assert one.angles_left.max() == one.angles_right.max() == 0
    assert one.bounds.weyl == one.bounds.wedin == 0


def test_decompositions_multiply_back_and_ranks_are_limited() -> None:
    weight = np.random.default_rng(0).standard_normal((7, 5))
    found = decompose(weight)
    assert (found.left * found.values) @ found.right == pytest.approx(weight, abs=1e-13)
    assert singular_values(weight) == pytest.approx(found.values, abs=1e-13)
    assert [limited(512, (576, 1536)), limited(64, (576, 192)), limited(9, (2, 3))] == [288, 64, 1]
