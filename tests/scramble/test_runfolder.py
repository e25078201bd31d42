"""What a run folder says of itself, and the step that a checkpoint's path says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scramble.errors import SelectionError
from scramble.files import locked
from scramble.runfolder import RunFolder, run_of, step_of

# As transformers, verl, Megatron, our own runs and others name them.
NAMES = (
    *("step-{}", "step_{}", "step{}", "checkpoint-{}", "checkpoint_{}", "global_step_{}", "global_step{}"),
    *("iter_{:07d}", "ckpt-{}", "step-{:06d}", "llama-step-{}", "step-{}-merged", "step_{}.hf"),
)
INSIDE = ("", "/fp32", "/actor", "/actor/huggingface", "/hf-1.5B")


@given(
    st.sampled_from(NAMES),
    st.integers(0, 10**7),
    st.sampled_from(INSIDE),
    st.sampled_from(("", "/runs/a-2/")),
)
def test_names_of_every_trainer_give_their_step(name: str, step: int, inside: str, before: str) -> None:
    assert step_of(f"{before}{name.format(step)}{inside}") == step


@pytest.mark.parametrize(
    "path",
    [
        *("model", "Qwen3-8B", "run-20", "seed1", "step", "checkpoint", "checkpoint-best", "step-", "v2"),
        *("misstep-3", "stepper-3", "step-3a", "step-1.5", "checkpoint-3-step-20", "epoch-3", "a/b/c"),
    ],
)
def test_other_names_and_two_that_differ_give_none(path: str) -> None:
    assert step_of(path) is None


def test_the_innermost_folder_counts() -> None:
    assert step_of("checkpoint-3/export/step-20") == 20
    assert step_of("global_step_30/actor/checkpoint") == 30


def begun(folder: Path) -> RunFolder:
    """A run that has not ended, with three checkpoints, one of them in float32 too, and one half written."""
    for name in ("step-10/fp32", "step-9", "step-2", "step-11.partial"):
        (folder / "checkpoints" / name).mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"status": "running", "seed": 3}))
    (folder / "recipe.yaml").write_text("steps: 12\n")
    (folder / "metrics.jsonl").write_text('{"step": 1}\n{"st')
    return RunFolder(folder)


def test_a_run_says_how_far_it_is(tmp_path: Path) -> None:
    run = begun(tmp_path)
    assert (run.record.seed, run.recipe, run.metrics) == (3, {"steps": 12}, [{"step": 1}])
    assert list(run.checkpoints) == [2, 9, 10]
    assert (run.fp32(10), run.fp32(9)) == (tmp_path / "checkpoints" / "step-10" / "fp32", None)
    assert repr(run) == f"RunFolder({str(tmp_path)!r}, interrupted)"
    with locked(tmp_path, "busy"):
        assert run.status == "running"
    for ask in ("finished", "last_step", "end"):
        with pytest.raises(SelectionError, match=r"not finished \(interrupted\)"):
            getattr(run, ask)
    nothing = RunFolder(tmp_path / "none")
    assert (nothing.status, nothing.record, nothing.recipe, nothing.metrics) == ("missing", None, {}, [])
    assert not nothing.path.exists()


def test_a_run_is_known_by_its_checkpoints_and_other_trainers_folders_are_none(tmp_path: Path) -> None:
    run = begun(tmp_path / "ours")
    for inside in ("step-10", "step-10/fp32"):
        assert run_of(run.path / "checkpoints" / inside) == run
    assert run_of(run.path) is None
    (run.path / "run.json").unlink()  # a loss, since the others are there
    assert run_of(run.path / "checkpoints" / "step-2") == run
    (run.path / "metrics.jsonl").unlink()
    assert run_of(run.path / "checkpoints" / "step-2") is None
