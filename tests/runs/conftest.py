"""A tiny model that can be trained in a second, and a recipe for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from scramble.runs.recipe.recipe import Recipe
from scramble.runs.records.records import list_runs
from tests.models import Tiny, with_tokenizer

SAMPLING = {"prompts": 2, "generations": 8, "max_new_tokens": 6}
ON_POLICY: dict[str, dict[str, Any]] = {
    "grpo": {"name": "grpo"} | SAMPLING,
    "grpo with mini-batches and KL": {"name": "grpo", "mini_batches": 2, "beta": 0.01} | SAMPLING,
    "dr_grpo": {"name": "dr_grpo"} | SAMPLING,
    "dapo": {"name": "dapo", "resamples": 2} | SAMPLING,
    "rloo": {"name": "rloo", "beta": 0.01} | SAMPLING,
    "reinforce++": {"name": "reinforce++"} | SAMPLING,
    "reinforce++-baseline": {"name": "reinforce++-baseline"} | SAMPLING,
    "rejection_sft": {"name": "rejection_sft"} | SAMPLING,
}
SUPERVISED: dict[str, dict[str, Any]] = {name: {"name": name, "batch": 8} for name in ("sft", "dpo", "simpo")}


def assert_failed(out: Path, message: str) -> None:
    """The one run folder in `out` says that it failed, and why."""
    (row,) = list_runs(out)
    assert row["status"] == "failed"
    assert message in row["problem"]


@pytest.fixture
def start(tmp_path: Path) -> Path:
    folder = Tiny("llama", 3, 2, 8, layers=2, tied=True, seed=1).save(tmp_path / "start", torch.bfloat16)
    return with_tokenizer(folder)


@pytest.fixture
def content(start: Path) -> dict[str, Any]:
    return {
        "model": str(start),
        # An untrained model must be right now and then: the first 0, 1 or 2 that it says is its answer.
        "task": {
            "name": "few-shot-sums",
            "size": 32,
            "high": 1,
            "low": 0,
            "answer_pattern": "[^012]*([012])",
        },
        "algorithm": {"prompts": 2, "generations": 8, "max_new_tokens": 6},
        "optimizer": {"learning_rate": 1e-3},
        "precision": "fp32",
        "steps": 2,
        "seed": 1,
        "fp32_steps": [2],
    }


@pytest.fixture
def recipe(content: dict[str, Any]) -> Recipe:
    return Recipe.model_validate(content)
