"""Area means: the laws, and agreement with the definition."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from scramble.measures.maps.area import area_means, area_weights

MATRICES = hnp.arrays(np.uint16, hnp.array_shapes(min_dims=2, max_dims=2, max_side=13))


def sizes(data: st.DataObject, values: np.ndarray) -> tuple[int, int]:
    high, wide = values.shape
    return data.draw(st.integers(1, high)), data.draw(st.integers(1, wide))


@given(MATRICES, st.data())
def test_the_mean_is_kept(values: np.ndarray, data: st.DataObject) -> None:
    np.testing.assert_allclose(area_means(values, *sizes(data, values)).mean(), values.mean(), rtol=1e-12)


@given(hnp.array_shapes(min_dims=2, max_dims=2, max_side=40), st.floats(-1e3, 1e3), st.data())
def test_a_constant_stays_constant(shape: tuple[int, int], constant: float, data: st.DataObject) -> None:
    values = np.full(shape, constant)
    np.testing.assert_allclose(area_means(values, *sizes(data, values)), constant, rtol=1e-12, atol=1e-300)


@given(MATRICES)
def test_as_many_cells_as_entries_change_nothing(values: np.ndarray) -> None:
    assert np.array_equal(area_means(values, *values.shape), values)


@given(MATRICES, st.data())
def test_cells_are_the_means_over_their_areas(values: np.ndarray, data: st.DataObject) -> None:
    (rows, columns), (high, wide) = values.shape, sizes(data, values)

    def shared(cell: int, cells: int, entry: int, size: int) -> Fraction:
        """The length that [cell, cell + 1) / cells and [entry, entry + 1) / size share."""
        low = max(Fraction(cell, cells), Fraction(entry, size))
        return max(Fraction(0), min(Fraction(cell + 1, cells), Fraction(entry + 1, size)) - low)

    want = [
        [
            sum(
                shared(i, high, r, rows) * shared(j, wide, c, columns) * int(values[r, c])
                for r in range(rows)
                for c in range(columns)
            )
            * high
            * wide
            for j in range(wide)
        ]
        for i in range(high)
    ]
    np.testing.assert_allclose(area_means(values, high, wide), np.array(want, float), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("cells", [0, 6])
def test_cells_that_cannot_be_are_refused(cells: int) -> None:
    with pytest.raises(ValueError, match="1 to 5 cells"):
        area_weights(5, cells)
