"""The figures of a comparison show the numbers of the tables that they are made from."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scramble.runs.comparison.figures import _PANELS, by_place, overview
from tests import drawn

COLUMNS = [*(panel[0] for panel in _PANELS), "principal_chance", "principal_magnitude_matched"]


def test_the_overview_draws_a_row_a_run() -> None:
    rng = np.random.default_rng(0)
    columns = ("pass@1_after", "pass@1_before", "kl_to_start", "update_norm", "sparsity", "nss", "principal")
    names = (*columns, "principal_chance", "principal_magnitude_matched")
    runs = pd.DataFrame({name: rng.uniform(0.1, 0.9, 3) for name in names}).assign(name=list("abc"))
    axes = overview(runs).axes
    shown = ("pass@1_after", "kl_to_start", "update_norm", "sparsity", "nss", "principal")
    others = {
        "pass@1_after": ["pass@1_before"],
        "principal": ["principal_chance", "principal_magnitude_matched"],
    }
    for ax, name in zip(axes, shown, strict=True):
        for (values, rows), column in zip(drawn.lines(ax), [name, *others.get(name, [])], strict=True):
            drawn.same(values, runs[column])
            drawn.same(rows, range(3))


@pytest.mark.parametrize("key", ["layer", "module"])
def test_a_place_draws_its_table(key: str) -> None:
    rng = np.random.default_rng(1)
    at = [0, 1, 2] if key == "layer" else ["a", "b", "c"]
    places = pd.DataFrame({"name": ["one"] * 3 + ["two"] * 3, key: at * 2, "level": key})
    places = places.assign(**{name: rng.uniform(0.1, 0.9, 6) for name in COLUMNS})
    places = places.assign(**dict.fromkeys({"layer", "module"} - {key}))
    for ax, (column, _, _, baselines) in zip(by_place(places, key).axes, _PANELS, strict=True):
        found, levels = drawn.lines(ax), drawn.marks(ax)
        for name in ("one", "two"):
            rows = places[places["name"] == name]
            drawn.same(found.pop(0)[1], rows[column])
            for baseline in baselines:
                heights = found.pop(0)[1] if key == "layer" else levels.pop(0)[1][::2]
                drawn.same(heights, rows[baseline])
        assert not found
        assert not levels
