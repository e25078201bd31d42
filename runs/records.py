"""What run folders say: one line a run, or all of one run. A damaged folder is said to be damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from runs.folder import RunFolder
from runs.summary import first_and_last
from scramble.errors import SelectionError

Row = dict[str, Any]
_COLUMNS: tuple[str, ...] = ("run", "status", "algorithm", "task", "seed", "step", "steps")
_COLUMNS += ("reward_first", "reward_last", "loss_first", "loss_last", "seconds", "problem")


def list_runs(out: Path) -> list[Row]:
    """One row a run folder in `out`, by name.

    Raises:
        SelectionError: there is no such folder.
    """
    if not out.is_dir():
        raise SelectionError(f"{out}: there is no such folder of runs")
    return [_row(path) for path in sorted(out.iterdir()) if _is_run(path)]


def show_run(path: Path) -> Row:
    """All of a run: `run.json`, the recipe, the last metrics and which checkpoints there are.

    Raises:
        SelectionError: not a run folder, or damaged.
    """
    if not path.is_dir() or not _is_run(path):
        raise SelectionError(f"{path}: not a run folder: neither run.json nor recipe.yaml is there")
    try:
        recipe, record, metrics = _recipe(path), _record(path), _metrics(path)
    except ValueError as error:
        raise SelectionError(f"{path}: damaged: {error}") from None
    return {
        "run": str(path),
        **record,
        "status": RunFolder(path).status,
        "recipe": recipe,
        "last_metrics": metrics[-1] if metrics else {},
        "checkpoints": _checkpoints(path),
    }


def _is_run(path: Path) -> bool:
    return (path / "run.json").exists() or (path / "recipe.yaml").exists()


def _row(path: Path) -> Row:
    row: Row = dict.fromkeys(_COLUMNS) | {"run": path.name, "status": "damaged"}
    try:
        recipe, record, metrics = _recipe(path), _record(path), _metrics(path)
    except ValueError as error:
        return row | {"problem": str(error)}
    row |= {
        "status": RunFolder(path).status,
        "algorithm": _name(recipe.get("algorithm")),
        "task": _name(recipe.get("task")),
        "seed": recipe.get("seed"),
        "step": metrics[-1].get("step") if metrics else 0,
        "steps": recipe.get("steps"),
        **first_and_last(metrics),
        "seconds": record.get("seconds"),
        "problem": record.get("reason"),
    }
    return row


def _name(section: object) -> object:
    if not isinstance(section, dict):
        return None
    return section.get("dataset") or section.get("name")


def _recipe(path: Path) -> Row:
    try:
        content = yaml.safe_load((path / "recipe.yaml").read_text())
    except OSError as error:
        raise ValueError(f"recipe.yaml: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ValueError("recipe.yaml is not YAML") from None
    if not isinstance(content, dict):
        raise ValueError("recipe.yaml is not a recipe")
    return content


def _record(path: Path) -> Row:
    try:
        content = json.loads((path / "run.json").read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        raise ValueError("run.json is not JSON") from None
    if not isinstance(content, dict):
        raise ValueError("run.json is not a record")
    return content


def _metrics(path: Path) -> list[Row]:
    try:
        rows = RunFolder(path).metrics
    except (OSError, ValueError):
        raise ValueError("metrics.jsonl has a line that is not JSON") from None
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("metrics.jsonl has a line that is not a row")
    return rows


def _checkpoints(path: Path) -> list[str]:
    """Folders relative to the run that hold weights, by step; float32 ones after their bf16 ones."""
    found = [one.parent for one in path.glob("checkpoints/**/config.json") if ".partial" not in str(one)]
    steps = sorted({str(one.relative_to(path)) for one in found}, key=lambda name: (_step(name), name))
    return steps


def _step(name: str) -> int:
    digits = name.split("/")[1].removeprefix("step-")
    return int(digits) if digits.isdigit() else -1
