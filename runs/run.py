"""Carry out a recipe: find its folder, train if it is not finished, record what happened."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from runs.folder import RunFolder, run_folder
from runs.recipe import Recipe
from runs.tasks import Example
from scramble.checkpoints import locate, open_checkpoint
from scramble.errors import MissingDependencyError, RunError, ScrambleError
from scramble.rewrite import side_files

Progress = Callable[[int, int, dict[str, Any]], None]
_PACKAGES = ("scramble", "torch", "transformers", "trl", "accelerate", "datasets", "numpy", "reasoning-gym")


def start_hash(start: Path) -> str:
    """Digest of every byte that a run starts from: weights, config, tokenizer and what stands beside them."""
    digest = hashlib.sha256(open_checkpoint(start).hash(full=True).encode())
    for path in side_files(start):
        digest.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}".encode())
    return digest.hexdigest()


def plan(recipe: Recipe, out: Path) -> tuple[RunFolder, Path, str]:
    """The run's folder, its start checkpoint, and the hash of the start."""
    start = locate(recipe.model)
    digest = start_hash(start)
    return run_folder(out, recipe, digest), start, digest


def run(
    recipe: Recipe,
    out: Path,
    *,
    threads: int | None = None,
    progress: Progress = lambda step, steps, metrics: None,
) -> RunFolder:
    """Train, unless the run is finished already. A run that was interrupted starts anew.

    Args:
        out: the folder that holds run folders.
        threads: of the arithmetic; all cores by default. Lanes side by side must divide the cores.

    Raises:
        ScrambleError: see `scramble.errors`. If training fails, the run folder says `failed` and why.
    """
    folder, start, digest = plan(recipe, out)
    if folder.status == "finished":
        return folder
    _one_gpu()
    threads = threads or len(os.sched_getaffinity(0))
    examples = recipe.task.checked_examples()
    rows = recipe.algorithm.rows(recipe.task, examples)
    with folder.locked():
        if folder.status == "finished":  # by another process, a moment ago
            return folder
        folder.begin(recipe)
        began = time.monotonic()
        folder.write_record(
            status="running",
            seed=recipe.seed,
            seeds=_seeds(recipe),
            start={"path": str(start), "hash": digest},
            data={"examples": len(examples), "hash": _data_hash(examples)},
            backend=recipe.backend.model_dump(mode="json"),
            versions=_versions() | recipe.backend.versions(),
            hardware=_hardware(threads),
            began=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        try:
            recipe.backend.check()
            from runs.train import train

            end = train(recipe, start, rows, folder, threads, progress)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            kind = "" if isinstance(error, ScrambleError) else f"{type(error).__name__}: "
            reason = kind + " ".join(str(error).split())
            folder.write_record(status="failed", reason=reason)
            if not isinstance(error, Exception) or isinstance(error, MissingDependencyError):
                raise
            raise RunError(f"{folder.path}: the run failed: {reason}") from error
        folder.write_record(
            status="finished",
            seconds=round(time.monotonic() - began, 1),
            end=end,
        )
    return folder


def _one_gpu() -> None:
    """A run uses one GPU: the first that this process may see. It must be said before CUDA starts."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[0]


def _seeds(recipe: Recipe) -> dict[str, Any]:
    """Every seed and where it reaches."""
    return {
        "dropout": recipe.seed,
        "order of the data": recipe.seed,
        "rollouts": recipe.seed,
        "prompts of the task": recipe.task.seed,
    }


def _data_hash(examples: list[Example]) -> str:
    text = "\0".join(f"{example.prompt}\1{example.answer}" for example in examples)
    return hashlib.sha256(text.encode()).hexdigest()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _hardware(threads: int) -> dict[str, Any]:
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "machine": platform.machine(),
        "system": platform.platform(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "gpu": gpu,
        "threads": threads,
    }
