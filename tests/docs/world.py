"""What the folder of a page holds: a model, a text, and three finished runs (docs/guide/python.md)."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import scramble
from scramble.runs.engine.run import start_hash
from scramble.runs.recipe.recipe import Recipe
from scramble.runs.records.folder import WritableRun
from tests.fake_runs import train, transported
from tests.models import Tiny, weights, with_tokenizer

STEPS, KEPT = 20, (10, 20)
SCRAMBLED = Path("runs-out/starts/scrambled")
_SIDE = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


def prepare(folder: Path, layers: int = 30, scrambled: Sequence[int] = (20, 25)) -> None:
    """Write it all without training: ends of runs are starts with noise of the size of bf16's rounding."""
    with contextlib.chdir(folder):
        model = Path("model")
        with_tokenizer(
            Tiny("qwen2", kv_heads=2, group=2, head_dim=8, layers=layers, seed=3).save(model, torch.bfloat16)
        )
        Path("text.txt").write_text("".join(f"{a}+{b}={a + b}\n" for a in range(9) for b in range(9)))
        SCRAMBLED.parent.mkdir(parents=True)
        scramble.apply(model, SCRAMBLED, layers=[*scrambled], full_hash=True, progress=False)
        for seed in (1, 2):
            _run(f"grpo-seed{seed}", model, seed)
        _run("scrambled-seed1", SCRAMBLED, 1)


def _run(name: str, start: Path, seed: int) -> None:
    run = WritableRun(Path("runs-out") / name)
    recipe = Recipe.model_validate(
        {
            "name": name,
            "model": str(start),
            "task": {"name": "few-shot-sums", "high": 4, "low": 0},
            "algorithm": {"prompts": 4, "generations": 8, "max_new_tokens": 4},
            "optimizer": {"learning_rate": 3e-5},
            "precision": "fp32",
            "steps": STEPS,
            "seed": seed,
            "save_steps": list(KEPT),
            "fp32_steps": list(KEPT),
        }
    )
    run.path.mkdir(parents=True)
    run.begin(recipe)
    record: dict[str, Any] = {
        "recipe_hash": run.recipe_hash,
        "seed": seed,
        "start": {"path": str(start), "hash": start_hash(start)},
    }
    run.write_record(status="running", **record)
    for step in KEPT:
        _checkpoint(run, start, step, seed)
    rows = ({"step": step, "reward": 0.25, "score": 0.25, "loss": 0.0} for step in range(1, STEPS + 1))
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run.write_record(status="finished", seconds=1.0, end={"step": STEPS, "hash": "0" * 64})


def _checkpoint(run: WritableRun, start: Path, step: int, seed: int) -> None:
    """The same update in the frame of either start, in float32 and in bf16."""
    folder, model = run.checkpoint(step), Path("model")
    folder.mkdir(parents=True)
    if start == model:
        train(model, folder / "fp32", 100 * seed + step)
    else:
        end = train(model, run.path / "base", 100 * seed + step)
        transported(model, start, end, folder / "fp32")
        shutil.rmtree(end)
    rounded = {name: value.bfloat16() for name, value in weights(folder / "fp32").items()}
    save_file(rounded, folder / "model.safetensors", metadata={"format": "pt"})
    for at in (folder, folder / "fp32"):
        for name in ("config.json", *_SIDE):
            if (start / name).exists():
                (at / name).write_bytes((start / name).read_bytes())
