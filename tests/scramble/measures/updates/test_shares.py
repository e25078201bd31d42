"""Shares of an overlap above chance: given where they are shares of something, and nowhere else."""

from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from scramble.measures.updates.ratios import decomposition

SHARES = [f"{part}_share" for part in ("rounding", "magnitude", "row_column", "coordinate")]


def counts(both: float, chance: float, rounding: float, magnitude: float, row_column: float) -> pd.DataFrame:
    places = {"level": "tensor", "layer": 0, "module": "m", "tensor": "t"}
    places |= {"run_a": "a", "run_b": "b", "same_seed": False, "frame": "raw", "n": 10**6}
    expected = {"chance": chance, "rounding_only": rounding, "magnitude_matched": magnitude}
    expected |= {"row_column_matched": row_column, "chance_variance": 100.0}
    variances = dict.fromkeys(
        ("row_column_matched_variance", "above_chance_variance", "row_column_matched_covariance"), 100.0
    )
    return pd.DataFrame([places | expected | variances | {"both": both}])


def test_baselines_that_nest_give_shares_that_add_up() -> None:
    (row,) = decomposition(counts(11000, 1000, 6000, 8000, 9000)).to_dict("records")
    assert [round(row[name], 6) for name in SHARES] == [0.5, 0.2, 0.1, 0.2]


def test_a_baseline_far_above_what_is_there_gives_parts_and_no_shares() -> None:
    """Updates whose sizes follow the weights': rounding expects twelve times what is above chance."""
    (row,) = decomposition(counts(2000, 1000, 12940, 1950, 1950)).to_dict("records")
    assert row["rounding"] == 11940
    assert all(np.isnan(row[name]) for name in SHARES)


@given(*[st.floats(0, 1e5)] * 5)
def test_no_share_is_far_from_one(both: float, chance: float, a: float, b: float, c: float) -> None:
    (row,) = decomposition(counts(both, chance, a, b, c)).to_dict("records")
    given = [row[name] for name in SHARES]
    whole = both - chance
    assert all(np.isnan(given)) or (whole > 50 and all(-1.1 <= share <= 2.1 for share in given))
