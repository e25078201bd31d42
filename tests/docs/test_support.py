"""The reference's table of families says what is measured."""

from __future__ import annotations

import pytest

from tests.docs import support
from tests.models import FAMILIES

pytestmark = pytest.mark.train


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_of_the_table_is_what_is_measured(family: str) -> None:
    letters = dict(zip(support.REASONS, "abcdefgh", strict=False))
    for name, measured, shown in zip(
        support.COLUMNS, support.cells(family), support.printed()[family], strict=True
    ):
        if isinstance(measured, str):
            assert shown == f"({letters[measured]})", name
        else:
            assert measured < 1e-10, name
            # Rounding in float64 differs from machine to machine; what is 0 is moved words, on all of them.
            assert (measured == 0) == (float(shown) == 0), name
            assert float(shown) / 30 <= measured <= 30 * float(shown), name


def test_the_table_has_every_family_once() -> None:
    assert list(support.printed()) == list(FAMILIES)
