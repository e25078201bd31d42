"""An experiment on a tiny model, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

from tests.models import Tiny, with_tokenizer

RECIPE: dict[str, Any] = {
    "task": {"name": "few-shot-sums", "size": 32, "low": 0, "high": 1, "answer_pattern": "[^012]*([012])"},
    "algorithm": {"prompts": 2, "generations": 8, "max_new_tokens": 6},
    "optimizer": {"learning_rate": 1e-3},
    "precision": "fp32",
    "steps": 3,
    "fp32_steps": [3],
}


def write(folder: Path, **changes: Any) -> Path:
    content = {
        "name": "tiny",
        "base": str(folder / "base"),
        "arms": {"base": [], "scrambled": ["vo-rotation:layers=1,2", "head-permutation:layers=1"]},
        "seeds": [1, 2],
        "recipe": RECIPE,
    }
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(content | changes))
    return path


def make_base(folder: Path) -> Path:
    base = Tiny("llama", 3, 2, 8, layers=3, tied=True, seed=1).save(folder / "base", torch.bfloat16)
    return with_tokenizer(base)
