"""What a run's metrics come to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scramble.runs.records.summary import stood_still


@given(st.lists(st.sampled_from([0.0, 1e-9, 1.0, None]), max_size=5))
def test_a_run_stands_still_where_no_step_had_a_gradient(norms: list[float | None]) -> None:
    said = stood_still([{"step": at, "grad_norm": norm} for at, norm in enumerate(norms)])
    assert (said is not None) == (len(norms) > 0 and set(norms) == {0.0})


@pytest.mark.parametrize("row", [{}, {"loss": 0.0}])
def test_without_the_measurement_nothing_is_said(row: dict[str, float]) -> None:
    assert stood_still([row]) is None
