"""A run that is killed at any moment goes on and ends with the bits of one that was not."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from scramble import files
from scramble.runs.engine import resume
from scramble.runs.engine.recorder import Recorder
from scramble.runs.engine.run import run
from scramble.runs.engine.tree import pack, unpack
from scramble.runs.recipe.adapters import Adapted, Adapter
from scramble.runs.recipe.recipe import Recipe
from scramble.runs.records.folder import WritableRun
from tests.models import weights
from tests.runs.conftest import ON_POLICY, SUPERVISED

pytestmark = pytest.mark.train
STEPS = 7
MUON = {"name": "muon", "learning_rate": 1e-2, "adamw_learning_rate": 1e-3, "warmup_steps": 3}
ADAMW = {"name": "adamw", "learning_rate": 1e-3, "warmup_steps": 3}
# Of all algorithms these have state of different kinds; eight examples are four steps an epoch.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "grpo with mini-batches and KL, muon": (ON_POLICY["grpo with mini-batches and KL"], MUON, {}),
    "dapo, adamw, evaluated": (
        ON_POLICY["dapo"],
        ADAMW,
        {"evaluation": {"size": 2, "samples": 2, "k": [1], "every": 3}},
    ),
    "rejection_sft in micro-batches, sgd": (
        ON_POLICY["rejection_sft"] | {"micro_batch": 8},
        {"name": "sgd", "learning_rate": 0.05},
        {},
    ),
    "sft, adamw": (SUPERVISED["sft"] | {"batch": 2}, ADAMW, {}),
    "simpo, muon, masked and watched": (
        SUPERVISED["simpo"] | {"batch": 2},
        MUON | {"weight_decay": 0.1},
        {
            "mask": {"kind": "safe", "rank": 2, "alpha": 0.3},
            "kl": {"every": 1, "prompts": 2},
            "collapse": {"grad_norm_above": 1e-9, "patience": STEPS},
        },
    ),
    "grpo, adamw, pissa": (ON_POLICY["grpo"], ADAMW, {"adapter": {"name": "pissa", "rank": 2}}),
}
TIMES = {"seconds", "tokens_per_second", "step_time"}


def killed(recipe: Recipe, out: Path, plan: Callable[[], None]) -> None:
    """Run in a process that `plan` prepares for its death."""

    def child() -> None:
        plan()
        run(recipe, out, threads=1)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def kill_after(kind: Any, method: str, step: int) -> Callable[[], None]:
    """The process dies when a callback's method returns at a step."""

    def plan() -> None:
        original = getattr(kind, method)

        def dying(self: Any, args: Any, state: Any, *rest: Any, **kwargs: Any) -> None:
            original(self, args, state, *rest, **kwargs)
            if state.global_step == step:
                os.kill(os.getpid(), signal.SIGKILL)

        setattr(kind, method, dying)

    return plan


def kill_in_a_state(what: str, place: int) -> Callable[[], None]:
    """The process dies in the `place`-th state, before the step of writing that is named."""

    def plan() -> None:
        where: Any = {"rmtree": shutil, "rename": Path, "sync": files}.get(what, resume)
        original, seen = getattr(where, what), []

        def dying(*args: Any, **kwargs: Any) -> Any:
            if "state/step-" in str(args[0]) or what == "save_file":
                seen.append(args)
                if len(seen) == place:
                    os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        setattr(where, what, dying)

    return plan


def ends(folder: WritableRun) -> tuple[Any, ...]:
    """Rows of metrics without times, digests of samples among them; the record of the end; checkpoints."""
    rows = [
        {key: value for key, value in row.items() if not any(time in key for time in TIMES)}
        for row in folder.metrics
    ]
    kept = {path.name for path in (folder.path / "checkpoints").iterdir()}
    record = [folder.record.content().get(key) for key in ("end", "trainable", "collapsed", "evaluation")]
    return rows, record, kept, {path.name for path in folder.path.iterdir()}


def same(one: WritableRun, two: WritableRun) -> bool:
    first, second = (weights(folder.checkpoint(STEPS, fp32=True)) for folder in (one, two))
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def recipe_of(content: dict[str, Any]) -> Callable[..., Recipe]:
    def make(algorithm: dict[str, Any], optimizer: dict[str, Any], **changes: Any) -> Recipe:
        own = {
            "algorithm": algorithm,
            "optimizer": optimizer,
            "task": content["task"] | {"size": 8},
            "steps": STEPS,
            "save_steps": [2, 5],
            "fp32_steps": [STEPS],
            "resume_every": 2,
        }
        return Recipe.model_validate(content | own | changes)

    return make


@pytest.mark.parametrize(("algorithm", "optimizer", "sections"), CASES.values(), ids=CASES)
def test_a_killed_run_ends_with_the_same_bits(
    algorithm: dict[str, Any],
    optimizer: dict[str, Any],
    sections: dict[str, Any],
    recipe_of: Any,
    tmp_path: Path,
) -> None:
    """Killed between a step and its row, and, gone on, between a row and its state in the second epoch.

    A state of mini-batches waits for the last of them.
    """
    every = 1 if "mini_batches" in algorithm else 2
    recipe = recipe_of(algorithm, optimizer, resume_every=every, **sections)
    whole = run(recipe, tmp_path / "whole", threads=1)
    out = tmp_path / "killed"
    killed(recipe, out, kill_after(Recorder, "on_step_end", 4))
    (path,) = out.iterdir()
    assert WritableRun(path).state_step == 2
    killed(recipe, out, kill_after(Recorder, "on_log", 6))
    assert WritableRun(path).state_step == 4
    folder = run(recipe, out, threads=1)
    assert folder.record.content()["resumed"] == [2, 4]
    assert [row["seconds"] for row in folder.metrics] == sorted(row["seconds"] for row in folder.metrics)
    assert ends(folder) == ends(whole)
    assert same(folder, whole)


@pytest.mark.parametrize(
    ("what", "place", "left"), [("save_file", 2, 2), ("rename", 2, 2), ("rmtree", 4, 4), ("sync", 2, 2)]
)
def test_killed_while_the_state_is_written(
    what: str, place: int, left: int, recipe_of: Any, tmp_path: Path
) -> None:
    """The state before this one is there until the new one is whole."""
    recipe = recipe_of(*CASES["sft, adamw"][:2])
    whole = run(recipe, tmp_path / "whole", threads=1)
    killed(recipe, tmp_path / "killed", kill_in_a_state(what, place))
    (path,) = (tmp_path / "killed").iterdir()
    assert WritableRun(path).state_step == left
    folder = run(recipe, tmp_path / "killed", threads=1)
    assert folder.record.content()["resumed"] == [left]
    assert ends(folder) == ends(whole)
    assert same(folder, whole)


def test_how_often_a_state_is_saved_does_not_decide_the_weights(recipe_of: Any, tmp_path: Path) -> None:
    often, never = (recipe_of(*CASES["sft, adamw"][:2], resume_every=every) for every in (1, 0))
    assert often.identity("x") == never.identity("x")
    one, two = run(often, tmp_path / "often", threads=1), run(never, tmp_path / "never", threads=1)
    assert ends(one) == ends(two)
    assert same(one, two)


def test_another_machine_starts_anew(recipe_of: Any, tmp_path: Path) -> None:
    recipe = recipe_of(*CASES["sft, adamw"][:2])
    killed(recipe, tmp_path, kill_after(Recorder, "on_log", 6))
    (path,) = tmp_path.glob("run-*")
    folder = WritableRun(path)
    folder.write_record(versions=folder.record.content()["versions"] | {"torch": "0.1"})
    folder = run(recipe, tmp_path, threads=1)
    assert "resumed" not in folder.record.content()
    assert [row["step"] for row in folder.metrics] == list(range(1, STEPS + 1))


def test_a_state_holds_what_is_trained_and_what_an_adapter_rewrote(start: Path, tmp_path: Path) -> None:
    for name, rewrites in (("lora", False), ("pissa", True)):
        model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
        wrapped = Adapted(model, Adapter(name=name, rank=2, targets=("q_proj",)), 1)
        held = resume.Resume(WritableRun(tmp_path), model, 1, 1, {}, wrapped.rewritten).weights
        assert all("q_proj." in one for one in held)
        assert any(one.endswith("base_layer.weight") for one in held) == rewrites


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3)
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.integers() | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(TREES)
def test_what_is_kept_comes_back(value: Any) -> None:
    assert unpack(json.loads(json.dumps(pack(value, {}))), {}) == value


def test_tensors_come_back_and_other_things_are_refused() -> None:
    tensors: dict[str, torch.Tensor] = {}
    value = {0: {"exp_avg": torch.arange(6.0).view(2, 3).T, "step": torch.tensor(3.0)}}
    found = unpack(json.loads(json.dumps(pack(value, tensors))), tensors)
    assert all(torch.equal(found[0][key], value[0][key]) for key in value[0])
    with pytest.raises(TypeError, match="ndarray"):
        pack({"x": np.zeros(2)}, {})
    state = random.getstate()
    assert unpack(json.loads(json.dumps(pack(state, {}))), {}) == state
