"""The step that a checkpoint's path says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scramble.runfolder import step_of

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
