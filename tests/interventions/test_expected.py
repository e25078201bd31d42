"""What contrasts are expected to show before training, from the starts that would be written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import get_scheduler

from scramble.checkpoints import open_checkpoint
from scramble.errors import RecipeError
from scramble.interventions.columns import TABLES
from scramble.interventions.experiment import (
    OUTSIDE,
    UNTREATED,
    expected,
    noise_of,
    prepare,
    read_experiment,
    treatment,
)
from scramble.measures.updates.expected import change_probabilities
from scramble.runs.recipe.recipe import Recipe
from tests.conftest import Command
from tests.experiments import RECIPE, write
from tests.models import Tiny, digest, with_tokenizer

ARMS = {
    "base": [],
    "permuted": ["head-permutation:layers=0"],
    "mixed": ["vo-rotation:layers=0,1", "neuron-scaling:layers=1"],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with_tokenizer(Tiny("llama", 3, 2, 8, layers=2, seed=1).save(tmp_path / "base", torch.bfloat16))
    return write(tmp_path, arms=ARMS)


def test_starts_in_memory_are_those_that_are_written(path: Path, tmp_path: Path) -> None:
    experiment = read_experiment(path)
    (row,) = [
        one
        for one in expected(experiment)
        if (one["contrast"], one["treatment"]) == ("base x mixed", "vo-rotation")
    ]
    assert not (tmp_path / "out").exists()
    probabilities = change_probabilities(RECIPE["optimizer"]["learning_rate"] * RECIPE["steps"] ** 0.5)
    starts = {run.arm: open_checkpoint(run.start) for run in prepare(experiment, tmp_path / "out")}
    names = [name for name in starts["base"].parameters if "v_proj" in name or "o_proj" in name]
    one, other = (
        np.concatenate([probabilities[starts[arm].words(name).ravel() & 0x7FFF] for name in names])
        for arm in ("base", "mixed")
    )
    assert row["n"] == one.size
    assert row["density_b"] == pytest.approx(other.mean(), rel=1e-12)
    both = (one * other).sum()
    assert row["expected_jaccard"] == pytest.approx(both / (one.sum() + other.sum() - both), rel=1e-12)


def test_what_nothing_touched_is_expected_alike_in_all_arms(path: Path) -> None:
    rows = expected(read_experiment(path))
    for arm in ("permuted", "mixed"):
        own = [row for row in rows if row["arm"] == arm and row["treatment"] == UNTREATED]
        assert len(own) == 2
        assert own[0]["expected_jaccard"] == own[1]["expected_jaccard"]
    permuted = {row["contrast"]: row for row in rows if row["treatment"] == "head-permutation"}
    base, crossed = permuted["base x base"], permuted["base x permuted"]
    assert crossed["density_b"] == pytest.approx(base["density_b"])  # the same weights elsewhere
    assert crossed["expected_jaccard"] < base["expected_jaccard"]
    assert crossed["expected_jaccard"] == pytest.approx(crossed["expected_chance"], abs=0.02)


@pytest.mark.parametrize(
    "recipe",
    [
        {"optimizer": {"name": "sgd", "learning_rate": 0.1}},
        {"optimizer": {"learning_rate": 1e-3, "weight_decay": 0.1}},
        {"mask": {"kind": "random"}},
    ],
)
def test_where_the_rule_is_not_made_it_is_refused(recipe: dict[str, Any], path: Path, tmp_path: Path) -> None:
    experiment = read_experiment(write(tmp_path, arms=ARMS, recipe=RECIPE | recipe))
    with pytest.raises(RecipeError, match="AdamW on all weights"):
        expected(experiment)


def test_the_command_writes_nothing(path: Path, tmp_path: Path, command: Command) -> None:
    before = digest(tmp_path)
    found = command(
        *("experiment", "plan", path, "--contrasts", "--out", tmp_path / "out", "--format", "json")
    )
    assert digest(tmp_path) == before
    assert all(list(row) == list(TABLES["experiment plan --contrasts"]) for row in found.json["rows"])


def test_a_plan_says_what_its_arms_cannot_tell(path: Path, tmp_path: Path, command: Command) -> None:
    alone = write(tmp_path, arms={"base": [], "permuted": ["head-permutation:layers=0"]})
    said = command("experiment", "plan", alone, "--out", tmp_path / "out", "--format", "json")
    assert "bf16 rounding" in said.json["meta"]["caution"]
    assert "cannot tell" in said.err


@pytest.mark.parametrize("family", ["qwen2", "mixtral"])  # biases; a tensor an expert
def test_a_treatment_is_named_once_however_many_tensors_it_touches(family: str, tmp_path: Path) -> None:
    with_tokenizer(Tiny(family, 3, 2, 8, layers=2, seed=1).save(tmp_path / "base", torch.bfloat16))
    arms = {
        "base": [],
        "other": ["vo-rotation:layers=0", "neuron-permutation:layers=0,1", "vo-scaling:layers=0"],
    }
    experiment = read_experiment(write(tmp_path, arms=arms))
    named = {row["treatment"] for row in expected(experiment)} - {UNTREATED, OUTSIDE}
    assert named == {"vo-rotation + vo-scaling", "neuron-permutation"}
    (run,) = {run.start for run in prepare(experiment, tmp_path / "out") if run.arm == "other"}
    assert named == set(treatment(run, tmp_path / "base").values())


@pytest.mark.parametrize(("warmup", "steps"), [(0, 5), (1, 5), (3, 5), (8, 5)])
def test_the_size_of_the_noise_is_that_of_the_learning_rates_of_the_run(warmup: int, steps: int) -> None:
    """As the scheduler that trains gives them, update by update."""
    recipe = Recipe.model_validate(
        {**RECIPE, "model": "m", "steps": steps, "fp32_steps": []}
        | {"optimizer": {"learning_rate": 1e-3, "warmup_steps": warmup}}
    )
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedule = get_scheduler("constant_with_warmup", optimizer, num_warmup_steps=warmup)
    total = 0.0
    for _ in range(steps):
        total += schedule.get_last_lr()[0] ** 2
        optimizer.step()
        schedule.step()
    assert noise_of(recipe) == pytest.approx(total**0.5, rel=1e-12)
