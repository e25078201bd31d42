"""Carry out a recipe: find its folder, train if it is not finished, record what happened."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from scramble.checkpoints import locate, open_checkpoint
from scramble.errors import MissingDependencyError, RecipeError, RunError, one_line
from scramble.runs.recipe.masks import Random
from scramble.runs.recipe.recipe import Recipe
from scramble.runs.recipe.reporting import check, no_telemetry, reporting
from scramble.runs.records.folder import WritableRun, run_folder
from scramble.runs.tasks import Example, VerifiableTask, shown
from scramble.transforms.rewrite import side_files

Progress = Callable[[int, int, dict[str, Any]], None]
_PACKAGES = (
    "scramble",
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "numpy",
    "reasoning-gym",
    "math-verify",
)


def start_hash(start: Path) -> str:
    """Digest of every byte that a run starts from: weights, config, tokenizer and what stands beside them."""
    digest = hashlib.sha256(open_checkpoint(start).hash(full=True).encode())
    for path in side_files(start):
        digest.update(f"{path.relative_to(start)} {hashlib.sha256(path.read_bytes()).hexdigest()}".encode())
    return digest.hexdigest()


def plan(recipe: Recipe, out: Path) -> tuple[WritableRun, Path, str]:
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
) -> WritableRun:
    """Train, unless the run is finished already. One that was interrupted goes on from its last state.

    It ends with the same bits as if it had not been interrupted. Where versions, hardware or the number of
    threads are others than before, that would not be certain, and it starts anew.

    Args:
        out: the folder that holds run folders.
        threads: of the arithmetic; all cores by default. Lanes side by side must divide the cores.

    Raises:
        ScrambleError: see `scramble.errors`. What the recipe alone shows to be wrong was refused when it was
            read; whatever fails later (data, start, training), the run folder says `failed` and why.
    """
    no_telemetry()
    check(recipe.report_to)
    folder, start, digest = plan(recipe, out)
    if folder.status == "finished":
        folder.drop_state()  # it may have been stopped between saying so and this
        return _evaluated(folder, recipe, start)
    _one_gpu()
    threads = threads or len(os.sched_getaffinity(0))
    with folder.locked():
        record = folder.record
        if record and record.status == "finished":  # by another process, a moment ago
            return folder
        if record is None:
            folder.write_recipe(recipe)
        try:
            end = _train(recipe, start, digest, folder, threads, progress)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            reason = one_line(error, None)
            folder.write_record(status="failed", reason=reason)
            if not isinstance(error, Exception) or isinstance(error, MissingDependencyError):
                raise
            raise RunError(f"{folder.path}: the run failed: {reason}") from error
        folder.write_record(status="finished", **end)
        folder.drop_state()
    return folder


def _train(
    recipe: Recipe, start: Path, digest: str, folder: WritableRun, threads: int, progress: Progress
) -> dict[str, Any]:
    """Read the data, begin or go on, train; returns what `run.json` says of the end."""
    examples = recipe.task.checked_examples()
    rows = recipe.algorithm.rows(recipe.task, examples)
    held_out = _held_out(recipe)
    _check(recipe, start, len(rows))
    here = {"versions": _versions() | recipe.backend.versions(), "hardware": _hardware(threads)}
    step, record = folder.state_step, folder.record
    same = record and {"versions": record.versions, "hardware": record.hardware} == here
    if step is not None and record and same and len(folder.metrics) >= step:
        folder.cut_back(step)
        folder.write_record(status="running", reason=None, resumed=[*record.resumed, step])
    else:
        folder.begin(recipe)
        folder.write_record(
            status="running",
            recipe_hash=folder.recipe_hash,
            seed=recipe.seed,
            seeds=_seeds(recipe),
            start={"path": str(start), "hash": digest},
            data={"examples": len(examples), "hash": _data_hash(examples)},
            held_out={"examples": len(held_out), "hash": _data_hash(held_out)} if held_out else None,
            task=recipe.task.facts(),
            backend=recipe.backend.model_dump(mode="json"),
            **here,
            began=datetime.now(UTC).isoformat(timespec="seconds"),
        )
    recipe.backend.check()
    from scramble.runs.engine.train import train

    with reporting(recipe.report_to, folder.path):
        return train(recipe, start, rows, folder, threads, progress, held_out)


def _held_out(recipe: Recipe) -> list[Example]:
    """Prompts of the evaluation; none where the recipe asks for none."""
    if recipe.evaluation is None or not isinstance(recipe.task, VerifiableTask):
        return []
    return recipe.task.held_out(recipe.evaluation.size)


def _evaluated(folder: WritableRun, recipe: Recipe, start: Path) -> WritableRun:
    """A finished run, evaluated from its checkpoints if the recipe asks for what its record lacks."""
    wanted = recipe.evaluation
    found = folder.finished.evaluation
    if wanted is None or (found and found.settings == wanted.model_dump(mode="json")):
        return folder
    if wanted.every:
        raise RunError(
            f"{folder.path}: this run is finished, evaluation.every comes too late: take it out of the recipe"
        )
    held_out = _held_out(recipe)
    with folder.locked():
        from scramble.runs.engine.evaluate import evaluate_finished

        evaluate_finished(recipe, held_out, folder, start)
    return folder


def _check(recipe: Recipe, start: Path, rows: int) -> None:
    """What only the start or the task shows to be wrong.

    Raises:
        ScrambleError: a mask that was made for another start, a target that is not there, too few prompts.
    """
    for section in (recipe.mask, recipe.adapter):
        if section is not None:
            section.check(open_checkpoint(start))
    if recipe.kl and recipe.kl.prompts > rows:
        raise RecipeError(f"kl.prompts: {recipe.kl.prompts}, but the task has {rows} examples")


def _one_gpu() -> None:
    """A run uses one GPU: the first that this process may see. It must be said before CUDA starts."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[0]


def _seeds(recipe: Recipe) -> dict[str, Any]:
    """Every seed and where it reaches."""
    seeds = {
        "dropout": recipe.seed,
        "order of the data": recipe.seed,
        "rollouts": recipe.seed,
        "prompts of the task": recipe.task.seed,
        **({"evaluation": recipe.seed} if recipe.evaluation else {}),
    }
    if recipe.adapter:
        seeds["adapter"] = recipe.seed
    if recipe.kl:
        seeds["completions of kl"] = recipe.kl.seed
    if isinstance(recipe.mask, Random):
        seeds["mask"] = recipe.mask.seed
    return seeds


def _data_hash(examples: list[Example]) -> str:
    prompts = [
        one.prompt if isinstance(one.prompt, str) else json.dumps(shown(one.prompt)) for one in examples
    ]
    text = "\0".join(f"{prompt}\1{one.answer}" for prompt, one in zip(prompts, examples, strict=True))
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
