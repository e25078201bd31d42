"""Where commands are refused: checkpoints, run folders, a recipe and an experiment, all sound."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

import scramble
from tests.docs.world import prepare
from tests.experiments import write
from tests.fake_runs import train
from tests.models import Tiny

RECIPE: dict[str, Any] = {
    "model": "model",
    "task": {"name": "few-shot-sums", "size": 32, "low": 0, "high": 1, "answer_pattern": "[^012]*([012])"},
    "algorithm": {"prompts": 2, "generations": 8, "max_new_tokens": 6},
    "optimizer": {"learning_rate": 1e-3},
    "precision": "fp32",
    "steps": 2,
    "seed": 1,
    "fp32_steps": [2],
}
EXPERIMENT: dict[str, Any] = {"base": "model", "arms": {"base": [], "scrambled": ["vo-rotation:layers=1"]}}
RUN = "runs-out/grpo-seed1"
FIRST, SECOND = "model:end", "model:end2"


def make(folder: Path) -> Path:
    """`model`, its ends, `start` (scrambled) and `folded`; `other` and `deep` have other sizes."""
    folder.mkdir()
    prepare(folder, layers=2, scrambled=(0, 1))
    model = folder / "model"
    for seed, name in enumerate(("end", "end2")):
        train(model, folder / name, seed, torch.bfloat16)
    scramble.apply(model, folder / "start", layers="0", check=False, progress=False)
    scramble.fold(model, folder / "folded", check=False, progress=False)
    train(folder / "start", folder / "moved", 2, torch.bfloat16)
    Tiny("qwen2", kv_heads=1, group=2, head_dim=8, layers=2).save(folder / "other", torch.bfloat16)
    Tiny("qwen2", kv_heads=2, group=2, head_dim=8, layers=1).save(folder / "short", torch.bfloat16)
    (folder / "notes").mkdir()
    (folder / "notes" / "notes.txt").write_text("neither a checkpoint nor a run")
    (folder / "file").write_text("a file")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    write(folder, **EXPERIMENT)
    return folder


def recipe(**changes: Any) -> Callable[[Path], object]:
    """A recipe with other sections."""
    return lambda folder: (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | changes))


def experiment(**changes: Any) -> Callable[[Path], object]:
    """An experiment with other sections."""
    return lambda folder: write(folder, **EXPERIMENT | changes)


def content(path: str, value: str | bytes) -> Callable[[Path], object]:
    """A file that holds something else."""

    def put(folder: Path) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(value.encode() if isinstance(value, str) else value)

    return put


def record(path: str, **changes: Any) -> Callable[[Path], object]:
    """A JSON file with other values; those that are None are taken out."""

    def put(folder: Path) -> None:
        found = json.loads((folder / path).read_text()) | changes
        (folder / path).write_text(
            json.dumps({key: value for key, value in found.items() if value is not None})
        )

    return put
