"""Intervals and shares of the decomposition against simulations whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit

from scramble.measures.pairs.ends import ends
from scramble.measures.updates.tables import count_pairs, overlap
from scramble.operations.apply import apply
from tests.fake_runs import train, transported
from tests.models import Tiny
from tests.scramble.measures.updates.simulated import (
    STARTS,
    Process,
    coverage,
    independent,
    logit_by_exponent,
    starts,
    with_coordinate_share,
    with_row_share,
)

pytestmark = pytest.mark.train


def test_the_interval_holds_zero_where_runs_share_nothing_but_magnitudes() -> None:
    """2000 pairs at every density and from every distribution; benchmarks/coverage.py crosses them."""
    densities = (0.02, 0.1, 0.3, 0.6)
    found = coverage(
        (
            ({"start": kind, "density": density}, independent(kind, density))
            for kind in STARTS
            for density in densities
        ),
        500,
    )
    for by in ("start", "density"):
        assert found.groupby(by)["covered"].mean().between(0.93, 0.97).all(), found
    assert found["coordinate_share"].abs().max() < 0.01


def test_it_holds_zero_where_rows_and_columns_matter_too() -> None:
    """`X - sum pA pB` would not in a tall matrix: what the penalty takes from rows that differ stays."""
    words, rng = starts("normal", (400, 24), np.random.default_rng(0)), np.random.default_rng(2)
    effects = 1.5 * rng.standard_normal((400, 1)) + 0.7 * rng.standard_normal(24)
    process = Process(words, expit(logit_by_exponent(words) + effects))
    (found,) = coverage(iter([({}, process)]), 800).to_dict("records")
    assert 0.93 <= found["covered"] <= 0.97, found


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_a_planted_coordinate_share_is_recovered(share: float) -> None:
    words, rng = starts("normal", (80, 70), np.random.default_rng(0)), np.random.default_rng(2)
    p = expit(logit_by_exponent(words) + 0.5 * rng.standard_normal((80, 1)))
    process = with_coordinate_share(words, p, share)
    assert process.truth()["coordinate_share"] == pytest.approx(share)
    (found,) = coverage(iter([({}, process)]), 400).to_dict("records")
    assert found["given"] == 1
    assert found["coordinate_share"] == pytest.approx(share, abs=0.03)
    assert 0.92 <= found["covered"] <= 0.985


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_a_planted_row_share_is_recovered_and_not_called_coordinate(share: float) -> None:
    words = starts("normal", (80, 70), np.random.default_rng(0))
    process = with_row_share(words, share, np.random.default_rng(2))
    assert process.truth()["row_column_share"] == pytest.approx(share)
    (found,) = coverage(iter([({}, process)]), 400).to_dict("records")
    assert found["row_column_share"] == pytest.approx(share, abs=0.03)
    assert found["coordinate_share"] == pytest.approx(0, abs=0.03)
    assert 0.92 <= found["covered"] <= 0.985


def test_a_scrambled_arm_overlaps_as_much_as_the_base_arm(tmp_path: Path) -> None:
    """One process drawn in the base's frame; one arm is trained in the scrambled frame and aligned."""
    base = Tiny("qwen2", 3, 2, 8, layers=2, seed=4).save(tmp_path / "base", torch.bfloat16)
    start = tmp_path / "scrambled"
    apply(base, start, layers="1", symmetries=("vo-rotation", "head-permutation"))
    one, other, third = (train(base, tmp_path / f"run{seed}", seed) for seed in range(3))
    runs = [ends(base, one, aligned=True), ends(base, other, aligned=True)]
    for end in (other, third):
        moved = transported(base, start, end, tmp_path / f"moved-{end.name}")
        runs.append(ends(start, moved, aligned=True))
    counts = count_pairs(runs, ["aligned"])
    table = overlap(counts, ["tensor"]).assign(both=counts["both"], variance=counts["chance_variance"])
    by_pair = {
        (a, b): rest.set_index("tensor") for (a, b), rest in table.groupby(["run_a", "run_b"], sort=False)
    }
    within, same, across = (by_pair[runs[0].name, run.name] for run in runs[1:])
    # The same updates: what a rotation in float32 leaves may move a weight that lies at a rounding boundary.
    assert (within["both"] - same["both"]).abs().max() <= 2
    assert (within["jaccard"] - same["jaccard"]).abs().max() < 0.01
    touched = within.index[within.index.str.contains("layers.1.self_attn")]
    assert len(touched) > 4
    # Other updates of the process: within sampling error, also where the scramble acted.
    for rows in (within.index, touched):
        total, off = within.loc[rows], across.loc[rows, "both"].sum() - within.loc[rows, "both"].sum()
        assert abs(off) < 5 * np.sqrt(2 * total["both"].sum())
        assert across.loc[rows, "jaccard"].mean() == pytest.approx(total["jaccard"].mean(), abs=0.03)
