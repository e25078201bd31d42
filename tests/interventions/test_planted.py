"""Planted truths through contrast and verdict: noise in place of updates, and updates with one direction."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

import scramble
from scramble.interventions.contrast import Contrasts, contrast
from scramble.interventions.experiment import Experiment, PlannedRun
from scramble.interventions.verdict import CONCLUSION, verdict
from tests.models import Tiny, weights

SCRAMBLES = ("vo-rotation:layers=1", "head-permutation:layers=2")
ROTATED, PERMUTED = "vo-rotation", "head-permutation"


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return scrambled(Tiny("llama", 8, 4, 8, layers=3, seed=3), tmp_path_factory.mktemp("planted"))


def scrambled(tiny: Tiny, folder: Path) -> dict[str, Path]:
    base = tiny.save(folder / "base", torch.bfloat16)
    scramble.apply(base, folder / "scrambled", symmetries=SCRAMBLES)
    return {"base": base, "scrambled": folder / "scrambled"}


def planted(starts: dict[str, Path], folder: Path, *, common: float, seeds: int = 2) -> list[PlannedRun]:
    """Runs with float32 ends: noise that bf16 rounding lets through in part, and a common direction.

    In one world of noise out of twenty the true alignment is above all wrong ones; the fixed one here is not
    among these.

    Args:
        common: size of what all runs share, in the base's frame, beside noise of size 1.
    """
    rng = np.random.default_rng(0)
    base = weights(starts["base"])
    shared = {name: torch.from_numpy(rng.standard_normal(value.shape)) for name, value in base.items()}
    mapped = {"base": shared, "scrambled": moved(starts["base"], shared, folder)}
    runs = []
    for arm, start in starts.items():
        for seed in range(1, seeds + 1):
            end = folder / f"{arm}-{seed}"
            end.mkdir(parents=True)
            (end / "config.json").write_bytes((start / "config.json").read_bytes())
            content = {}
            for name, value in load_file(start / "model.safetensors").items():
                noise = torch.from_numpy(rng.standard_normal(value.shape))
                size = 2e-3 * float(value.float().std() or 1)
                content[name] = (value.double() + size * (noise + common * mapped[arm][name])).float()
            save_file(content, end / "model.safetensors", metadata={"format": "pt"})
            runs.append(PlannedRun(arm, seed, recipe(), start, finished(end)))  # type: ignore[arg-type]
    return runs


def moved(base: Path, update: dict[str, torch.Tensor], folder: Path) -> dict[str, torch.Tensor]:
    """An update in the scrambled frame: the scramble is linear, so that of it alone is enough."""
    folder.mkdir(parents=True, exist_ok=True)
    lone = folder / "update"
    lone.mkdir()
    (lone / "config.json").write_bytes((base / "config.json").read_bytes())
    save_file(
        {name: value.float() for name, value in update.items()},
        lone / "model.safetensors",
        metadata={"format": "pt"},
    )
    scramble.apply(lone, folder / "moved", symmetries=SCRAMBLES, check=False)
    return {name: value.double() for name, value in load_file(folder / "moved" / "model.safetensors").items()}


def recipe() -> Any:
    optimizer = SimpleNamespace(name="adamw", learning_rate=1e-5)
    return SimpleNamespace(algorithm=SimpleNamespace(name="grpo"), optimizer=optimizer)


def finished(end: Path) -> Any:
    return SimpleNamespace(
        status="finished",
        finished=SimpleNamespace(end=SimpleNamespace(step=1), evaluation=None, versions={}, hardware={}),
        metrics=[],
        end=end,
    )


def experiment(starts: dict[str, Path], seeds: int = 2) -> Experiment:
    arms = {"base": [], "scrambled": list(SCRAMBLES)}
    content = {"name": "planted", "base": str(starts["base"]), "arms": arms, "recipe": {}}
    return Experiment.model_validate(content | {"seeds": list(range(1, seeds + 1))})


def lines_of(found: Contrasts) -> dict[str, str]:
    """The verdict's sentences by treatment."""
    lines = verdict(found.by_treatment, "base", ["scrambled"])
    assert lines[-1] == CONCLUSION
    names = {ROTATED: f"had {ROTATED},", PERMUTED: f"had {PERMUTED},"}
    at = {name: next(i for i, line in enumerate(lines) if text in line) for name, text in names.items()}
    return {name: " ".join(lines[first : first + 3]) for name, first in at.items()}


def row(found: Contrasts, treatment: str, contrast: str = "base x scrambled") -> pd.Series:
    table = found.by_treatment
    rows = table[(table["treatment"] == treatment) & (table["contrast"] == contrast) & ~table["same_seed"]]
    return rows[rows["frame"] == "aligned"].iloc[0]


def test_noise_in_place_of_updates_leads_to_no_conclusion(starts: dict[str, Path], tmp_path: Path) -> None:
    found = contrast(experiment(starts), planted(starts, tmp_path, common=0.0))
    for treatment, text in lines_of(found).items():
        aligned, home = row(found, treatment), row(found, treatment, "base x base")
        # The overlap returns in the aligned frame, which once was called relabelling; nothing is there.
        assert aligned["jaccard"] > 0.85 * home["jaccard"]
        assert aligned["jaccard"] <= aligned["placebo_jaccard_most"]
        assert "this rise says nothing" in text
        assert "so this cosine says nothing" in text
        assert "geometry" not in text


def test_a_planted_direction_is_seen_through_the_true_alignment_alone(
    starts: dict[str, Path], tmp_path: Path
) -> None:
    found = contrast(experiment(starts), planted(starts, tmp_path, common=1.0))
    for treatment, text in lines_of(found).items():
        aligned, home = row(found, treatment), row(found, treatment, "base x base")
        assert home["update_cosine"] == pytest.approx(0.5, abs=0.06)
        assert aligned["update_cosine"] == pytest.approx(home["update_cosine"], abs=0.06)
        assert abs(aligned["placebo_update_cosine"]) < 0.2  # a wrong permutation leaves some heads in place
        assert 15 < aligned["placebos"] <= 19  # of 384 permutations a few may be drawn twice
        assert "have a direction in common that follows the function" in text


def test_more_than_eight_runs_are_contrasted_as_fewer_are(tmp_path: Path) -> None:
    """Ten runs; the pairs of four of them have the figures that those four have alone."""
    starts = scrambled(Tiny("llama", 2, 2, 8, layers=3, seed=3), tmp_path / "starts")
    runs = planted(starts, tmp_path, common=0.5, seeds=5)
    some = [run for run in runs if run.seed <= 2]
    asked = experiment(starts, 5).model_copy(update={"placebos": 1})
    keys = ["contrast", "frame", "seed_a", "seed_b", "layer", "module", "treatment"]
    many, few = (contrast(asked, chosen).pairs.set_index(keys).sort_index() for chosen in (runs, some))
    assert len(many.groupby(["contrast", "seed_a", "seed_b"])) == 45
    values = ["n", "density_a", "jaccard", "chance", "rounding_only", "magnitude_matched", "update_cosine"]
    pd.testing.assert_frame_equal(many.loc[few.index, values], few[values], rtol=1e-12)
