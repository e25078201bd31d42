"""What each optimizer does to the weights, and stopping at a length of the update."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from scramble.runs.engine.run import run
from scramble.runs.recipe.optimizers import Muon, hidden_matrices
from scramble.runs.recipe.recipe import Recipe
from tests.models import weights

pytestmark = pytest.mark.train
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"name": "sgd", "learning_rate": 0.05},
    "muon": {"name": "muon", "learning_rate": 1e-2, "adamw_learning_rate": 1e-3},
    "adamw with warmup": {"name": "adamw", "learning_rate": 1e-2, "warmup_steps": 2},
}


@pytest.fixture
def sft(content: dict[str, Any]) -> Any:
    def recipe(optimizer: dict[str, Any], **changes: Any) -> Recipe:
        own = {"algorithm": {"name": "sft", "batch": 8}, "optimizer": optimizer}
        return Recipe.model_validate(content | own | changes)

    return recipe


def norm(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    return math.sqrt(sum((one[name].double() - two[name].double()).square().sum().item() for name in one))


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_every_optimizer_trains_and_repeats(optimizer: dict[str, Any], sft: Any, tmp_path: Path) -> None:
    recipe = sft(optimizer, steps=6, fp32_steps=[6])
    recipe = recipe.model_copy(update={"algorithm": recipe.algorithm.model_copy(update={"batch": 32})})
    one, again = (run(recipe, tmp_path / out, threads=1) for out in ("one", "again"))
    assert one.metrics[-1]["loss"] < 0.9 * one.metrics[0]["loss"]
    ends = [weights(folder.checkpoint(6, fp32=True)) for folder in (one, again)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_clipped_sgd_step_has_the_length_of_its_learning_rate(
    sft: Any, start: Path, tmp_path: Path
) -> None:
    optimizer = {"name": "sgd", "learning_rate": 0.02, "max_grad_norm": 0.5, "momentum": 0.9}
    recipe = sft(optimizer, fp32_steps=[1, 2], match={"update_norm": 1e9})
    folder = run(recipe, tmp_path, threads=1)
    assert all(row["grad_norm"] > 0.5 for row in folder.metrics)
    old, one = weights(start), weights(folder.checkpoint(1, fp32=True))
    assert norm(old, one) == pytest.approx(0.02 * 0.5, rel=1e-3)
    end = folder.record.content()["end"]
    assert end["update_norm"] == pytest.approx(norm(old, weights(folder.checkpoint(2, fp32=True))), rel=1e-9)
    assert (end["reached"], end["step"]) == (False, 2)


def test_warmup_rises_linearly_and_stays(sft: Any, tmp_path: Path) -> None:
    recipe = sft({"learning_rate": 1e-2, "warmup_steps": 2}, steps=4)
    rates = [row["learning_rate"] for row in run(recipe, tmp_path, threads=1).metrics]
    assert rates == pytest.approx([0, 5e-3, 1e-2, 1e-2])


def test_muon_turns_hidden_matrices_and_leaves_the_rest_to_adamw(start: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    old = {name: value.detach().clone() for name, value in model.named_parameters()}
    torch.manual_seed(0)
    for value in model.parameters():
        value.grad = torch.randn_like(value)
    optimizer = Muon(name="muon", learning_rate=1e-2, adamw_learning_rate=1e-3).build(model)
    hidden = {id(value) for value in hidden_matrices(model)}
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    optimizer.step()
    schedule.step()
    names = {name for name, value in model.named_parameters() if id(value) in hidden}
    assert names == {name for name in old if name.endswith("_proj.weight")}
    for name, value in model.named_parameters():
        update = (value - old[name]).detach()
        if name in names:
            singular = torch.linalg.svdvals(update.double()) / (1e-2 * 0.2 * math.sqrt(max(value.shape)))
            assert singular.min() > 0.3
            assert singular.max() < 1.3
            assert (update * value.grad).sum() < 0
        else:
            assert torch.allclose(update, -1e-3 * value.grad.sign(), atol=1e-6)


def test_muons_two_scales_are_what_they_say(start: Path) -> None:
    updates = []
    for adjust in ("original", "match_rms_adamw"):
        model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
        old = [value.detach().clone() for value in hidden_matrices(model)]
        torch.manual_seed(0)
        for value in model.parameters():
            value.grad = torch.randn_like(value)
        Muon(name="muon", learning_rate=1e-2, adjust=adjust).build(model).step()
        updates.append([value.detach() - was for value, was in zip(hidden_matrices(model), old, strict=True)])
    for original, matched in zip(*updates, strict=True):
        rows, columns = original.shape
        ratio = 0.2 * math.sqrt(max(rows, columns)) / math.sqrt(max(1, rows / columns))
        assert torch.allclose(matched, ratio * original, atol=1e-6)


def test_a_schedule_and_a_stored_state_reach_both_parts_of_muon(start: Path) -> None:
    """Two steps are one step, its state stored and loaded, and another; at a rate of 0 nothing moves."""

    def step(model: Any, seed: int, state: dict[str, Any] | None = None, rate: float = 1.0) -> dict[str, Any]:
        optimizer = Muon(name="muon", learning_rate=1e-2, adamw_learning_rate=1e-2).build(model)
        if state is not None:
            optimizer.load_state_dict(state)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate)
        torch.manual_seed(seed)
        for value in model.parameters():
            value.grad = torch.randn_like(value)
        optimizer.step()
        schedule.step()
        return optimizer.state_dict()

    def load() -> Any:
        return AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)

    whole, parted, forgot, still = load(), load(), load(), load()
    optimizer = Muon(name="muon", learning_rate=1e-2, adamw_learning_rate=1e-2).build(whole)
    for seed in (1, 2):
        torch.manual_seed(seed)
        for value in whole.parameters():
            value.grad = torch.randn_like(value)
        optimizer.step()
    step(parted, 2, step(parted, 1))
    step(forgot, 1)
    step(forgot, 2)
    step(still, 1, step(load(), 3), rate=0.0)  # the schedule reaches parts whose state was loaded
    old = dict(load().named_parameters())
    others = dict(parted.named_parameters()), dict(forgot.named_parameters()), dict(still.named_parameters())
    for name, value in whole.named_parameters():
        assert torch.equal(value, others[0][name])
        assert not torch.equal(value, others[1][name])
        assert torch.equal(old[name], others[2][name])


def test_training_stops_at_the_first_step_that_is_far_enough(sft: Any, start: Path, tmp_path: Path) -> None:
    optimizer = {"name": "sgd", "learning_rate": 0.05}
    whole = run(sft(optimizer, steps=5, fp32_steps=[1, 2, 3, 4, 5]), tmp_path, threads=1)
    old = weights(start)
    norms = [norm(old, weights(whole.checkpoint(step, fp32=True))) for step in range(1, 6)]
    assert norms == sorted(norms)
    limit = (norms[1] + norms[2]) / 2
    recipe = sft(optimizer, steps=5, fp32_steps=[5], match={"update_norm": limit})
    folder = run(recipe, tmp_path, threads=1)
    end = folder.record.content()["end"]
    assert (folder.status, end["step"], end["reached"], folder.last_step) == ("finished", 3, True, 3)
    assert end["update_norm"] == pytest.approx(norms[2], rel=1e-12)
    assert [row["step"] for row in folder.metrics] == [1, 2, 3]
    stopped, same = weights(folder.checkpoint(3, fp32=True)), weights(whole.checkpoint(3, fp32=True))
    assert all(torch.equal(stopped[name], same[name]) for name in same)
    assert run(recipe, tmp_path, threads=1).path == folder.path != whole.path
