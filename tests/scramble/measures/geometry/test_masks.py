"""Masks against slow definitions, and the fast reconstruction against a full SVD."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scramble.measures.geometry import masks, reconstruction
from scramble.measures.geometry.masks import (
    MASKS,
    all_masks,
    largest,
    low_magnitude_mask,
    principal_masks,
    random_mask,
)
from scramble.measures.geometry.reconstruction import fast_factors, full_factors
from tests.scramble.measures.geometry.weights import orthonormal, planted

SEEDS = st.integers(0, 2**32 - 1)
SIDE, RANK = 384, 4


@given(SEEDS, st.integers(1, 9), st.integers(1, 9), st.floats(0, 1), st.integers(1, 20))
def test_the_largest_are_those_of_a_stable_sort(
    seed: int, rows: int, columns: int, alpha: float, different: int
) -> None:
    values = np.random.default_rng(seed).integers(0, different, (rows, columns)).astype(float)
    count = round(alpha * values.size)
    order = sorted(range(values.size), key=lambda at: (-values.flat[at], at))
    expected = np.zeros(values.size, dtype=bool)
    expected[order[:count]] = True
    assert np.array_equal(largest(values, count), expected.reshape(values.shape))


@given(SEEDS, st.integers(2, 9), st.integers(2, 9), st.integers(1, 4), st.floats(0, 1))
def test_masks_have_the_size_asked_for_and_are_what_they_are_called(
    seed: int, rows: int, columns: int, rank: int, alpha: float
) -> None:
    weight = np.round(np.random.default_rng(seed).standard_normal((rows, columns)), 1)
    found = all_masks(weight, rank, [alpha], seed, "w")[0]
    count = round(alpha * weight.size)
    assert tuple(found) == MASKS
    assert found["principal"].sum() == found["low_magnitude"].sum() == count
    assert found["random"].sum() == found["safe"].sum()
    assert np.array_equal(found["complement"], ~found["principal"])
    assert np.array_equal(found["safe"], found["low_magnitude"] | found["complement"])
    assert np.array_equal(found["principal_not_low"], found["principal"] & ~found["low_magnitude"])
    low = np.abs(weight[found["low_magnitude"]])
    assert low.max(initial=0) <= np.abs(weight[~found["low_magnitude"]]).min(initial=np.inf)


def test_the_principal_mask_is_that_of_numpys_reconstruction() -> None:
    weight = np.random.default_rng(5).standard_normal((30, 22))
    u, s, vt = np.linalg.svd(weight)
    kept = np.abs((u[:, :3] * s[:3]) @ vt[:3])
    for alpha, mask in zip((0.1, 0.5), principal_masks(weight, 3, (0.1, 0.5)), strict=True):
        count = round(alpha * weight.size)
        assert np.array_equal(mask, kept >= np.sort(kept, axis=None)[-count])


def test_random_masks_are_named_by_seed_and_tensor() -> None:
    one = random_mask((40, 50), 700, 1, "a")
    assert one.sum() == 700
    assert np.array_equal(one, random_mask((40, 50), 700, 1, "a"))
    for other in (random_mask((40, 50), 700, 2, "a"), random_mask((40, 50), 700, 1, "b")):
        assert abs((one & other).sum() - 245) < 60


@pytest.mark.parametrize("shape", [(SIDE, SIDE), (SIDE, 500), (500, SIDE)])
@pytest.mark.parametrize("kind", ["bulk", "decay", "large first"])
@pytest.mark.parametrize("seed", [0, 1])
def test_fast_factors_are_off_by_no_more_than_they_say(shape: tuple[int, int], kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal(shape)
    if kind == "decay":
        weight = planted(rng, *shape, 0.95 ** np.arange(SIDE))
    if kind == "large first":
        weight += 1e3 * np.outer(orthonormal(rng, shape[0], 1), orthonormal(rng, shape[1], 1))
    fast, full = fast_factors(weight, RANK), full_factors(weight, RANK)
    assert fast is not None
    error = np.abs(fast.left @ fast.right - full.left @ full.right)
    bound = fast.row[:, None] + fast.column[None, :] + fast.rest
    assert (error <= 2 * bound).all()
    assert bound.max() < 1e-6 * np.abs(weight).max()
    for alpha in (0.05, 0.3, 0.5):
        count = round(alpha * weight.size)
        expected = largest(np.abs(full.left @ full.right), count)
        assert np.array_equal(principal_masks(weight, RANK, [alpha])[0], expected)


def test_a_gap_that_rounding_could_close_is_not_certified() -> None:
    values = np.linspace(9, 8, SIDE)
    values[RANK] = values[RANK - 1] * (1 - 1e-14)
    assert fast_factors(planted(np.random.default_rng(0), SIDE, SIDE, values), RANK) is None
    assert fast_factors(np.eye(SIDE), RANK) is None
    assert fast_factors(np.zeros((SIDE, SIDE)), RANK) is None


def test_a_missed_direction_is_not_certified(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = planted(np.random.default_rng(0), SIDE, SIDE, np.linspace(9, 1, SIDE))

    def missed(gram: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
        values, vectors = np.linalg.eigh(gram)
        order = [0, 1, 3, 4, 5]
        return vectors[:, ::-1][:, order[:rank]], values[::-1][order]

    monkeypatch.setattr(reconstruction, "_lanczos", missed)
    assert fast_factors(weight, RANK) is None


def test_residuals_widen_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors that are off by 1e-6 are certified for what they are, and the mask falls back on a full SVD."""
    rng = np.random.default_rng(0)
    weight = planted(rng, SIDE, SIDE, np.linspace(9, 1, SIDE))

    def wrong(gram: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
        values, vectors = np.linalg.eigh(gram)
        turned = vectors[:, ::-1][:, :rank].copy()
        turned[:, -1] += 1e-6 * vectors[:, -rank - 1]
        return turned, values[::-1][: rank + 1]

    right = principal_masks(weight, RANK, [0.5])[0]
    monkeypatch.setattr(reconstruction, "_lanczos", wrong)
    fast, full = fast_factors(weight, RANK), full_factors(weight, RANK)
    assert fast is not None
    error = np.abs(fast.left @ fast.right - full.left @ full.right)
    bound = fast.row[:, None] + fast.column[None, :] + fast.rest
    assert (error <= bound).all()
    assert error.max() > 1e-8
    calls = []
    monkeypatch.setattr(masks, "full_factors", lambda *a: calls.append(1) or full)
    assert np.array_equal(principal_masks(weight, RANK, [0.5])[0], right)
    assert calls


def test_a_certain_mask_needs_no_full_svd(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = np.random.default_rng(3).standard_normal((SIDE, SIDE))
    monkeypatch.setattr(masks, "full_factors", lambda *a: pytest.fail("a full SVD was taken"))
    principal_masks(weight, RANK, [0.05, 0.3, 0.5])


def test_low_magnitude_takes_the_first_of_ties() -> None:
    weight = np.array([[1.0, -1, 1], [0, 1, 2]])
    assert low_magnitude_mask(weight, 0.5).tolist() == [[True, True, False], [True, False, False]]


@pytest.mark.parametrize("size", range(32, 65))
def test_a_small_matrix_that_takes_every_step_of_lanczos(size: int) -> None:
    """Three quarters of the space, whatever their number is a multiple of."""
    weight = np.random.default_rng(size).standard_normal((size, size))
    fast, full = fast_factors(weight, 2), full_factors(weight, 2)
    if fast is not None:
        assert np.allclose(fast.left @ fast.right, full.left @ full.right, atol=1e-6)
