"""The figures of an experiment show the numbers of its tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from scramble.interventions import figures
from tests import drawn
from tests.interventions.synthetic import synthetic

CONTRASTS = ("base x base", "base x scrambled", "scrambled x scrambled")
MODULES = ("v_proj", "up_proj")


@pytest.fixture
def table() -> pd.DataFrame:
    """No two numbers of the table are alike."""
    made = synthetic(collapse=True).by_layer
    rng = np.random.default_rng(0)
    numbers = [name for name in made.select_dtypes("float") if not name.startswith("jaccard_")]
    return made.assign(**{name: made[name] + 0.01 * rng.random(len(made)) for name in numbers})


@pytest.mark.parametrize("name", ["overlap", "direction"])
def test_lines_and_bars_are_the_tables(name: str, table: pd.DataFrame) -> None:
    column = {"overlap": "jaccard", "direction": "update_cosine"}[name]
    axes = np.array(getattr(figures, name)(table, table, MODULES).axes).reshape(len(MODULES), 2)
    for row, module in zip(axes, MODULES, strict=True):
        for ax, frame in zip(row, ("raw", "aligned"), strict=True):
            here = table[(table["module"] == module) & (table["frame"] == frame)]
            found = drawn.labelled(ax)
            for contrast in CONTRASTS:
                own = here[here["contrast"] == contrast].sort_values("layer")
                drawn.same(found[contrast][0], own["layer"])
                drawn.same(found[contrast][1], own[column])
            wrong = here[here["placebos"] > 0]
            spans = [levels for _, levels in drawn.marks(ax)]
            ends = [wrong[f"placebo_{column}{end}"] for end in ("_least", "_most")]
            expected: list[Any] = [pair for both in zip(*ends, strict=True) for pair in both]
            drawn.same([level for levels in spans for level in levels], expected)
            if name == "overlap":
                drawn.same(found["chance"][1], here.groupby("layer")["chance"].mean())


def test_rewards_are_the_curves() -> None:
    curves = {"one": [0.1, 0.4, 0.3], "two": [0.2, 0.25, 0.6]}
    found = drawn.labelled(figures.rewards(curves).axes[0])
    assert found == {name: ([1.0, 2.0, 3.0], values) for name, values in curves.items()}
