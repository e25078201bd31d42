"""What goes wrong in a run is one clear line, and the run folder says it too."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
import yaml

from scramble.errors import RecipeError, RunError
from scramble.runs.engine.run import run
from scramble.runs.recipe.recipe import Recipe
from scramble.runs.records.records import list_runs
from scramble.runs.tasks.few_shot_sums import FewShotSums
from tests.conftest import Command
from tests.runs.conftest import assert_failed

TOOLS = {"name": "tools", "data": "x.jsonl"}


class Scored(FewShotSums):
    name: Literal["few-shot-sums"] = "few-shot-sums"
    give: ClassVar[Any] = None

    def check(self, completions: Sequence[str], answers: Sequence[str]) -> Any:
        return type(self).give(len(completions))


def out_of_memory(count: int) -> list[float]:
    raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")


def no_memory_on_the_cpu(count: int) -> list[float]:
    raise RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory")


@pytest.mark.parametrize(
    ("give", "message"),
    [
        (lambda count: [float("nan")] * count, "is nan, not in [0, 1]"),
        (lambda count: [2.0] * count, "is 2.0, not in [0, 1]"),
        (lambda count: [1.0] * (count - 1), "15 scores for 16 completions"),
        (out_of_memory, "out of memory: lower algorithm.micro_batch"),
        (no_memory_on_the_cpu, "out of memory: lower algorithm.micro_batch"),
    ],
)
@pytest.mark.train
def test_a_bad_reward_fails_the_run_in_one_line(
    give: Any, message: str, content: dict[str, Any], monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.setattr(Scored, "give", staticmethod(give))
    recipe = Recipe.model_validate(content).model_copy(update={"task": Scored(**content["task"])})
    with pytest.raises(RunError, match=re.escape(message)) as caught:
        run(recipe, tmp_path, threads=1)
    assert "\n" not in str(caught.value)
    assert_failed(tmp_path, message)


@pytest.mark.train
def test_a_loss_that_is_not_finite_fails_the_run(content: dict[str, Any], tmp_path: Path) -> None:
    wild = {"name": "sgd", "learning_rate": 1e30}
    recipe = Recipe.model_validate(content | {"algorithm": {"name": "sft", "batch": 8}, "optimizer": wild})
    with pytest.raises(RunError, match=r"(loss|grad_norm) is (nan|inf) at step 2: lower the learning rate"):
        run(recipe, tmp_path, threads=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algorithm": {"name": "ppo"}}, "algorithm"),
        ({"algorithm": {"name": "sft", "prompts": 4}}, "algorithm.prompts: unknown key"),
        ({"algorithm": {"name": "sft", "batch": 4, "micro_batch": 3}}, "micro_batch does not divide batch 4"),
        ({"algorithm": {"name": "rloo", "mini_batches": 3}}, "mini_batches does not divide 4 x 8"),
        ({"algorithm": {"name": "grpo", "right": 0, "wrong": 1}}, "right 0.0 is not above wrong 1.0"),
        (
            {"algorithm": {"name": "dapo", "overlong_buffer": 99}},
            "overlong_buffer 99 is above max_new_tokens 64",
        ),
        ({"algorithm": {"name": "dapo", "epsilon_high": 0.1}}, "epsilon_high 0.1 is below epsilon 0.2"),
        ({"optimizer": {"name": "lion"}}, "optimizer"),
        ({"optimizer": {"name": "sgd", "betas": [0.9, 0.9]}}, "optimizer.betas: unknown key"),
        ({"match": {"update_norm": 0}}, "match.update_norm"),
        ({"preset": "nonesuch"}, "no preset 'nonesuch'"),
        ({"algorithm": {"name": "rloo"}, "task": TOOLS}, "task 'tools': TRL's trainer for algorithm 'rloo'"),
        ({"algorithm": {"name": "dapo"}, "task": TOOLS}, "set algorithm.resamples to 0"),
        ({"algorithm": {"name": "sft"}, "task": TOOLS}, "task 'tools' has no texts to imitate"),
        ({"algorithm": {"name": "sft"}, "evaluation": {}}, "evaluation.max_new_tokens: needed"),
        (
            {"algorithm": {"name": "dpo"}, "task": {"name": "preference", "data": "x"}, "evaluation": {}},
            "evaluation: task 'preference' has no answers to check",
        ),
    ],
)
def test_what_the_recipe_alone_shows_is_refused_before_anything_is_written(
    change: dict[str, Any], message: str, content: dict[str, Any], tmp_path: Path, command: Command
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content | change))
    found = command("run", path, "--out", tmp_path / "out")
    assert (found.code, found.out, found.err.count("\n")) == (2, "", 1)
    assert message in found.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"task": {"name": "jsonl", "data": "sums.jsonl"}},
            "row 1 has no column 'answer'; it has prompt, sum",
        ),
        ({"task": {"name": "jsonl", "data": "none.jsonl"}}, "task: none.jsonl: "),
        (
            {"algorithm": {"name": "grpo", "prompts": 33}},
            "32 examples are too few: algorithm 'grpo' takes 33",
        ),
        ({"algorithm": {"name": "dpo", "batch": 64}}, "32 examples are too few: algorithm 'dpo' takes 64"),
        (
            {"algorithm": {"name": "simpo"}, "task": {"name": "few-shot-sums", "low": 1, "high": 1}},
            "no wrong answer",
        ),
        ({"kl": {"every": 1, "prompts": 33}}, "kl.prompts: 33, but the task has 32 examples"),
        ({"evaluation": {"size": 500}}, "evaluation.size"),
        ({"adapter": {"name": "lora", "targets": ["x_proj"]}}, "no module 'x_proj'"),
    ],
)
def test_what_the_data_or_the_start_show_fails_the_run_in_one_line(
    change: dict[str, Any],
    message: str,
    content: dict[str, Any],
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sums.jsonl").write_text('{"prompt": "1 + 1 = ", "sum": "2"}\n')
    Path("recipe.yaml").write_text(yaml.safe_dump(content | change))
    found = command("run", "recipe.yaml", "--out", "out")
    assert (found.code, found.out, found.err.count("\n")) == (2, "", 1)
    assert message in found.err
    assert_failed(Path("out"), message)


@pytest.mark.train
def test_a_run_that_failed_before_it_began_begins_when_called_again(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(task: FewShotSums) -> Any:
        raise RecipeError("task: the disk is not mounted")

    with monkeypatch.context() as patch:
        patch.setattr(FewShotSums, "checked_examples", unreachable)
        with pytest.raises(RunError, match="the run failed: task: the disk is not mounted"):
            run(recipe, tmp_path, threads=1)
    assert_failed(tmp_path, "task: the disk is not mounted")
    run(recipe, tmp_path, threads=1)
    (row,) = list_runs(tmp_path)
    assert (row["status"], row["problem"], row["step"]) == ("finished", None, 2)


@pytest.mark.train
def test_the_command_shows_the_loss_where_there_is_no_reward(
    content: dict[str, Any], tmp_path: Path, command: Command
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content | {"algorithm": {"name": "sft", "batch": 8}}))
    found = command("run", path, "--out", tmp_path / "out", "--threads", 1, "--format", "json", "--quiet")
    (row,) = found.json["rows"]
    assert row["loss_first"] > 0
    assert row["loss_last"] > 0
    assert "reward_first" not in row
    (listed,) = command("runs", "list", tmp_path / "out", "--format", "json").json["rows"]
    shown = ("reward_first", "reward_last", "loss_first", "loss_last")
    assert [listed[key] for key in shown] == [None, None, row["loss_first"], row["loss_last"]]
