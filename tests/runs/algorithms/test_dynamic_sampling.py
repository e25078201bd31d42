"""DAPO's dynamic sampling and penalty, and REINFORCE++'s advantages, against their definitions."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scramble.runs.engine.run import run
from scramble.runs.recipe.recipe import Recipe
from scramble.runs.tasks.few_shot_sums import FewShotSums

MANY = {"size": 64, "high": 9, "answer_pattern": r"\s*(\d+)"}


class Graded(FewShotSums):
    """Completions of a prompt score 0 and 1 in turn, but all 0 if its answer is among the flat ones."""

    name: Literal["few-shot-sums"] = "few-shot-sums"
    flat: ClassVar[frozenset[str]] = frozenset()
    scored: ClassVar[list[list[str]]] = []

    def scores(self, completions: list[str], answers: list[str]) -> list[float]:
        self.scored.append(answers)
        return [0.0 if answer in self.flat else place % 2 for place, answer in enumerate(answers)]


@pytest.fixture
def dapo(content: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Trains with so many rounds; returns the rows of metrics and the answers of each step's batch."""

    def train(out: Path, flat: set[str], resamples: int, seed: int = 1, **task: Any) -> Any:
        monkeypatch.setattr(Graded, "flat", frozenset(flat))
        monkeypatch.setattr(Graded, "scored", [])
        algorithm = {
            "name": "dapo",
            "resamples": resamples,
            "prompts": 3,
            "generations": 4,
            "max_new_tokens": 6,
        }
        recipe = Recipe.model_validate(
            content | {"algorithm": algorithm, "seed": seed, "steps": 3, "fp32_steps": []}
        )
        graded = Graded(**(content["task"] | task))
        metrics = run(recipe.model_copy(update={"task": graded}), out, threads=1).metrics
        return metrics, [answers for answers in Graded.scored if len(answers) == 12]

    return train


@pytest.mark.train
def test_groups_without_spread_are_sampled_again(dapo: Any, tmp_path: Path) -> None:
    metrics, batches = dapo(tmp_path, {"1"}, resamples=10)
    assert sum(row["resampled_groups"] for row in metrics) > 0
    assert all(row["groups_without_spread"] == 0 for row in metrics)
    assert all(row["score"] == 0.5 for row in metrics)
    assert len(batches) == len(metrics) == 3
    assert all("1" not in answers for answers in batches)


@pytest.mark.train
def test_resampling_is_seeded(dapo: Any, tmp_path: Path) -> None:
    one, again, other = (
        [row["prompts"] for row in dapo(tmp_path / out, {"1"}, 10, seed)[0]]
        for out, seed in (("one", 1), ("again", 1), ("other", 2))
    )
    assert one == again != other


@pytest.mark.train
def test_the_limit_is_kept_and_what_is_left_is_recorded(dapo: Any, tmp_path: Path) -> None:
    metrics, _ = dapo(tmp_path / "rounds", {"0", "1", "2"}, resamples=2, **MANY)
    assert all(row["score"] < 0.5 or row["groups_without_spread"] == 0 for row in metrics)
    metrics, _ = dapo(tmp_path / "all", {str(n) for n in range(20)}, resamples=2, **MANY)
    assert [(row["resampled_groups"], row["groups_without_spread"]) for row in metrics] == [(6, 3)] * 3
    metrics, _ = dapo(tmp_path / "few", {str(n) for n in range(20)}, resamples=9, **(MANY | {"size": 4}))
    assert [(row["resampled_groups"], row["groups_without_spread"]) for row in metrics] == [(1, 3)] * 3
    metrics, _ = dapo(tmp_path / "off", {"0", "1", "2"}, resamples=0)
    assert all("resampled_groups" not in row for row in metrics)


@pytest.mark.train
def test_the_penalty_reaches_the_reward(content: dict[str, Any], tmp_path: Path) -> None:
    """A buffer as long as a completion may be: the penalty is its length over the buffer."""
    penalty = {"overlong_buffer": 6, "overlong_factor": 0.5}
    rewards = {"right": 2.0, "wrong": -1.0}
    algorithm = content["algorithm"] | {"name": "dapo", "resamples": 0} | penalty | rewards
    for row in run(Recipe.model_validate(content | {"algorithm": algorithm}), tmp_path, threads=1).metrics:
        expected = -1 + 3 * row["score"] - 0.5 * row["completions/mean_length"] / 6
        assert row["reward"] == pytest.approx(expected, rel=1e-5)


@given(st.integers(1, 50), st.integers(0, 50), st.integers(1, 60))
def test_the_penalty_is_equation_13(longest: int, buffer: int, length: int) -> None:
    from trl.rewards import get_soft_overlong_punishment

    buffer = min(buffer, longest)
    (found,) = get_soft_overlong_punishment(longest, buffer)(completion_ids=[[0] * length])
    over = length - (longest - buffer)
    assert found == (0 if over <= 0 else -1 if length > longest else -over / buffer)


REWARDS = st.integers(1, 4).flatmap(
    lambda generations: st.lists(
        st.lists(st.sampled_from([0.0, 1.0, -0.3, 0.7]), min_size=generations + 1, max_size=generations + 1),
        min_size=1,
        max_size=5,
    )
)


@given(REWARDS, st.booleans())
def test_advantages_are_normalised_over_the_batch(rewards: list[list[float]], baseline: bool) -> None:
    from scramble.runs.trainers.advantages import normalised_over_the_batch

    found = normalised_over_the_batch(torch.tensor(rewards, dtype=torch.float32), baseline=baseline).flatten()
    shifted = [
        float(torch.tensor(value, dtype=torch.float32)) - (statistics.fmean(group) if baseline else 0)
        for group in rewards
        for value in group
    ]
    spread = statistics.stdev(shifted)
    if spread < 1e-6:
        assert found.abs().max() < 1e-6 * len(shifted) + 10 * spread / 1e-8
    else:
        mean = statistics.fmean(shifted)
        expected = torch.tensor([(value - mean) / spread for value in shifted], dtype=torch.float64)
        assert torch.allclose(found, expected, atol=1e-5)
        assert abs(found.mean()) < 1e-6
        assert abs(found.std() - 1) < 1e-5


@pytest.mark.train
def test_reinforce_trains_on_these_advantages(
    content: dict[str, Any], monkeypatch: Any, tmp_path: Path
) -> None:
    from scramble.runs.trainers import groups

    seen = []
    loss = groups.GroupTrainer._compute_loss

    def watched(self: Any, model: Any, inputs: dict[str, Any]) -> Any:
        seen.append(inputs["advantages"].clone())
        return loss(self, model, inputs)

    monkeypatch.setattr(groups.GroupTrainer, "_compute_loss", watched)
    for name, rises in (("reinforce++", True), ("reinforce++-baseline", False)):
        seen.clear()
        algorithm = content["algorithm"] | {"name": name}
        (row, *_) = run(
            Recipe.model_validate(content | {"algorithm": algorithm}), tmp_path, threads=1
        ).metrics
        right, wrong = seen[0].max(), seen[0].min()
        assert abs(seen[0].mean()) < 1e-5
        assert abs(seen[0].std() - 1) < 1e-4
        if rises:  # one value for right, one for wrong: no group has a baseline of its own
            assert set(seen[0].tolist()) == {right.item(), wrong.item()}
            assert (right / wrong).item() == pytest.approx((row["score"] - 1) / row["score"], rel=1e-4)
        else:
            assert len(set(seen[0].tolist())) == 4
