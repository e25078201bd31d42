"""What a run folder holds, as everything that reads one sees it.

`run.json` (a record: how far the run is), `recipe.yaml` and `metrics.jsonl` (a row a step); checkpoints are
folders `checkpoints/step-N`. A folder is read whole or it is damaged: a file that cannot be read never
counts as one that is not there.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, NonNegativeFloat, NonNegativeInt, ValidationError

from scramble.errors import DamagedRunError

Row = dict[str, Any]
# Of a row of metrics, what is no number: digests.
_TEXTS = ("prompts", "rollouts")
_STEP = re.compile(
    r"(?<![A-Za-z0-9])(?:global_?step|step|checkpoint|ckpt|iter)[-_]?(\d+)(?![A-Za-z0-9]|\.\d)"
)


class _Record(BaseModel, extra="allow"):
    status: Literal["running", "failed", "finished"]


class _Start(BaseModel, extra="allow"):
    path: str
    hash: str


class _End(BaseModel, extra="allow"):
    step: NonNegativeInt
    hash: str | None


class _Finished(_Record):
    start: _Start
    end: _End
    seconds: NonNegativeFloat


@dataclass(frozen=True)
class RunFiles:
    """A run folder's files.

    Attributes:
        record: of `run.json`; empty before the run has begun.
        recipe: of `recipe.yaml`; empty before it was written.
        metrics: rows of steps 1, 2, ...; a last line that is being written is left out.
    """

    record: dict[str, Any]
    recipe: dict[str, Any]
    metrics: list[Row]


def read_run(folder: Path) -> RunFiles:
    """All files of a run folder.

    They are read in an order in which a process that trains may write at the same time.

    Raises:
        DamagedRunError: a file cannot be read, or does not fit the others: a finished run has a row of
            metrics for every step and the recipe that it began with; checkpoints, metrics and states have a
            record.
    """
    record = read_record(folder)
    kept = [name for name in ("checkpoints", "metrics.jsonl", "state") if _exists(folder / name)]
    if not record and kept:
        raise DamagedRunError(folder, f"run.json is missing, but {kept[0]} is there")
    recipe = _read_recipe(folder, record)
    return RunFiles(record, recipe, _read_metrics(folder, record))


def read_record(folder: Path) -> dict[str, Any]:
    """`run.json`; empty if there is none.

    Raises:
        DamagedRunError: it cannot be read, or is no record of a run.
    """
    try:
        content = _parsed(folder, "run.json", json.loads)
    except FileNotFoundError:
        return {}
    if not isinstance(content, dict):
        raise DamagedRunError(folder, "run.json is not a record")
    try:
        kind = _Finished if content.get("status") == "finished" else _Record
        kind.model_validate(content)
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"]))
        raise DamagedRunError(
            folder, f"run.json is not the record of a run: {key} is missing or wrong"
        ) from None
    return content


def checkpoints(folder: Path) -> dict[int, Path]:
    """The checkpoints of a run folder that are whole, by step."""
    found = {
        int(name[1]): path
        for path in folder.glob("checkpoints/step-*")
        if (name := re.fullmatch(r"step-(\d+)", path.name))
    }
    return dict(sorted(found.items()))


def step_of(checkpoint: str | Path) -> int | None:
    """The step of a checkpoint of any trainer, from its path.

    The innermost folder whose name has one counts: `step-20`, `step_20`, `checkpoint-20` (transformers),
    `global_step_30/actor` (verl), `iter_0000020` (Megatron). None without one, or with two that differ.
    """
    for name in reversed(Path(checkpoint).parts):
        if found := {int(digits) for digits in _STEP.findall(name)}:
            return found.pop() if len(found) == 1 else None
    return None


def recipe_hash(folder: Path) -> str:
    """SHA-256 of `recipe.yaml`, which `run.json` keeps as `recipe_hash`."""
    return hashlib.sha256((folder / "recipe.yaml").read_bytes()).hexdigest()


def _read_recipe(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    try:
        content = _parsed(folder, "recipe.yaml", yaml.safe_load)
    except FileNotFoundError:
        if not record:
            return {}
        raise DamagedRunError(folder, "recipe.yaml: No such file or directory") from None
    if not isinstance(content, dict):
        raise DamagedRunError(folder, "recipe.yaml is not a recipe")
    if record.get("recipe_hash", recipe_hash(folder)) != recipe_hash(folder):
        raise DamagedRunError(folder, "recipe.yaml is not what it was when the run began")
    return content


def _read_metrics(folder: Path, record: dict[str, Any]) -> list[Row]:
    try:
        lines = _text(folder, "metrics.jsonl").splitlines(keepends=True)
    except FileNotFoundError:
        lines = []
    finished = record.get("status") == "finished"
    if lines and not lines[-1].endswith("\n"):
        if finished:
            raise DamagedRunError(folder, "metrics.jsonl ends in the middle of a line")
        del lines[-1]
    try:
        rows = [json.loads(line) for line in lines]
    except (ValueError, RecursionError):
        raise DamagedRunError(folder, "metrics.jsonl has a line that is not JSON") from None
    if not all(isinstance(row, dict) and _is_row(row) for row in rows):
        raise DamagedRunError(folder, "metrics.jsonl has a line that is not a row")
    steps = [row["step"] for row in rows]
    last = record["end"]["step"] if finished else len(rows)
    if steps != list(range(1, last + 1)):
        wrong = next((at for at, step in enumerate(steps, 1) if step != at), len(steps) + 1)
        raise DamagedRunError(folder, f"metrics.jsonl: line {wrong} is not step {wrong} of {last}")
    return rows


def _is_row(row: Row) -> bool:
    numbers = (value for name, value in row.items() if name not in _TEXTS)
    return type(row.get("step")) is int and all(isinstance(value, int | float | None) for value in numbers)


def _parsed(folder: Path, name: str, parse: Any) -> Any:
    kind = "YAML" if name.endswith(".yaml") else "JSON"
    try:
        return parse(_text(folder, name))
    except (yaml.YAMLError, ValueError, RecursionError):
        raise DamagedRunError(folder, f"{name} is not {kind}") from None


def _text(folder: Path, name: str) -> str:
    """Raises FileNotFoundError only where there is no such name."""
    try:
        return (folder / name).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        kind = {".yaml": "YAML", ".json": "JSON"}.get(Path(name).suffix, "text")
        raise DamagedRunError(folder, f"{name} is not {kind}") from None
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not _exists(folder / name):
            raise
        raise DamagedRunError(folder, f"{name}: {error.strerror}") from None


def _exists(path: Path) -> bool:
    """Whether the name is there, be it a link to nothing."""
    return path.exists() or path.is_symlink()
