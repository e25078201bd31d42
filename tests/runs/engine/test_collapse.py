"""A policy that breaks down ends its run, and the run says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scramble.runs.engine import recorder
from scramble.runs.engine.run import run
from scramble.runs.recipe.collapse import Collapse, Watch
from scramble.runs.recipe.recipe import Recipe
from tests.models import weights
from tests.runs.conftest import ON_POLICY

pytestmark = pytest.mark.train
OVERFLOW = {"name": "sgd", "learning_rate": 1e38, "weight_decay": 1000.0}
SFT = {"algorithm": {"name": "sft", "batch": 8}, "steps": 5, "fp32_steps": [5]}


def test_a_limit_that_is_passed_often_enough_ends_the_run(content: dict[str, Any], tmp_path: Path) -> None:
    limits = {"grad_norm_above": 1e-6, "patience": 3}
    plain = run(Recipe.model_validate(content | SFT | {"fp32_steps": [3]}), tmp_path, threads=1)
    recipe = Recipe.model_validate(content | SFT | {"collapse": limits, "save_steps": [3]})
    folder = run(recipe, tmp_path, threads=1)
    record = folder.record.content()
    assert (folder.status, record["end"]["step"], record["collapsed"]["step"]) == ("finished", 3, 3)
    norm = folder.metrics[-1]["grad_norm"]
    assert record["collapsed"]["why"] == f"grad_norm is {norm:.4g}, above 1e-06, 3 times in a row"
    one, two = (weights(each.checkpoint(3, fp32=True)) for each in (plain, folder))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert record["end"]["hash"]
    assert [row["step"] for row in folder.metrics] == [1, 2, 3]
    assert run(recipe, tmp_path, threads=1).record.content() == record


def test_rewards_and_divergences_are_watched(content: dict[str, Any], tmp_path: Path) -> None:
    never = content | {"steps": 4, "fp32_steps": [], "kl": {"every": 2, "prompts": 2, "max_new_tokens": 4}}
    low = run(Recipe.model_validate(never | {"collapse": {"reward_below": 2}}), tmp_path, threads=1)
    assert low.record.content()["collapsed"]["step"] == 1
    assert "reward is" in low.record.content()["collapsed"]["why"]
    far = run(
        Recipe.model_validate(never | {"collapse": {"kl_above": 1e-9, "patience": 2}}), tmp_path, threads=1
    )
    assert far.record.content()["collapsed"]["step"] == 4
    assert "kl_to_start is" in far.record.content()["collapsed"]["why"]
    fine = {"reward_below": -1, "kl_above": 1e9, "grad_norm_above": 1e9}
    whole = run(Recipe.model_validate(never | {"collapse": fine}), tmp_path, threads=1)
    assert "collapsed" not in whole.record.content()
    assert whole.last_step == 4


@pytest.mark.parametrize("algorithm", ["sft", "grpo"])
def test_weights_that_are_not_finite_are_a_result(
    algorithm: str, content: dict[str, Any], tmp_path: Path
) -> None:
    wild = {"optimizer": OVERFLOW, "collapse": {}}
    if algorithm == "grpo":
        wild |= {"algorithm": ON_POLICY["grpo"]}
    folder = run(Recipe.model_validate(content | SFT | wild), tmp_path, threads=1)
    step = folder.record.content()["collapsed"]["step"]
    assert folder.status == "finished"
    assert folder.record.content()["collapsed"]["why"] == "weights are not finite"
    assert folder.record.content()["end"] == {"step": step, "hash": None}
    assert folder.metrics[-1]["step"] == step
    assert not (folder.path / "checkpoints").exists()


def test_a_gradient_that_is_not_finite_is_a_result_and_its_row_is_json(
    content: dict[str, Any], tmp_path: Path, monkeypatch: Any
) -> None:
    wild = {"optimizer": {"name": "sgd", "learning_rate": 1e30}, "collapse": {"patience": 9}}
    folder = run(Recipe.model_validate(content | SFT | wild), tmp_path, threads=1)
    assert folder.record.collapsed.why in (
        "grad_norm is nan",
        "grad_norm is inf",
        "loss is nan",
    )
    for line in (folder.path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} in a row"))


def test_sampling_from_what_is_not_finite_is_a_result_and_finite_weights_are_written(
    content: dict[str, Any], tmp_path: Path, monkeypatch: Any
) -> None:
    """Finite weights whose logits overflow."""
    wild = {"optimizer": {"learning_rate": 1e15}, "algorithm": ON_POLICY["grpo"]}
    folder = run(Recipe.model_validate(content | SFT | wild | {"collapse": {}}), tmp_path, threads=1)
    collapsed = folder.record.content()["collapsed"]
    assert folder.status == "finished"
    assert collapsed["why"] == "probabilities to sample from are not finite"
    end = weights(folder.checkpoint(collapsed["step"]))
    assert all(value.isfinite().all() for value in end.values())
    assert folder.record.content()["end"]["hash"]


def test_without_the_section_it_is_a_failure(content: dict[str, Any], tmp_path: Path) -> None:
    wild = {"optimizer": OVERFLOW, "steps": 1, "fp32_steps": []}
    with pytest.raises(recorder.RunError, match="weights are not finite at step 1"):
        run(Recipe.model_validate(content | SFT | wild), tmp_path, threads=1)


@given(st.lists(st.none() | st.floats(0, 1), max_size=30), st.floats(0, 1), st.integers(1, 4))
def test_patience_is_so_many_measurements_in_a_row(
    rewards: list[float | None], limit: float, patience: int
) -> None:
    watch = Watch(Collapse(reward_below=limit, patience=patience))
    measured: list[bool] = []
    for reward in rewards:
        row = {"loss": 0.0} | ({} if reward is None else {"reward": reward})
        if reward is not None:
            measured.append(reward < limit)
        over = len(measured) >= patience and all(measured[-patience:]) and reward is not None
        copy = Watch(watch.limits)
        copy.restore(watch.kept())
        assert (copy.see(row) is not None) == over
        watch.see(row)
