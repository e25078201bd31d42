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
            assert measured < support.BOUND, name
            assert shown == support.TICK, name


def test_the_table_has_every_family_once() -> None:
    assert list(support.printed()) == list(FAMILIES)
