"""What run folders say: one line a run, or all of one run. A damaged folder is said to be damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scramble.errors import DamagedRunError, SelectionError
from scramble.runfolder import checkpoints, read_run
from scramble.runs.records.folder import RunFolder
from scramble.runs.records.summary import first_and_last

Row = dict[str, Any]
_COLUMNS: tuple[str, ...] = ("run", "status", "algorithm", "task", "seed", "step", "steps")
_COLUMNS += ("reward_first", "reward_last", "loss_first", "loss_last", "seconds", "problem")
_FILES = ("run.json", "recipe.yaml")


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
        SelectionError: not a run folder.
        DamagedRunError: it cannot be read.
    """
    if not _is_run(path):
        raise SelectionError(f"{path}: not a run folder: neither run.json nor recipe.yaml is there")
    found = read_run(path)
    return {
        "run": str(path),
        **found.record,
        "status": RunFolder(path).status,
        "recipe": found.recipe,
        "last_metrics": found.metrics[-1] if found.metrics else {},
        "checkpoints": _checkpoints(path),
    }


def _is_run(path: Path) -> bool:
    return path.is_dir() and any(name.name in _FILES for name in path.iterdir())


def _row(path: Path) -> Row:
    row: Row = dict.fromkeys(_COLUMNS) | {"run": path.name, "status": "damaged"}
    try:
        found = read_run(path)
    except DamagedRunError as error:
        return row | {"problem": error.why}
    row |= {
        "status": RunFolder(path).status,
        "algorithm": _name(found.recipe.get("algorithm")),
        "task": _name(found.recipe.get("task")),
        "seed": found.recipe.get("seed"),
        "step": len(found.metrics),
        "steps": found.recipe.get("steps"),
        **first_and_last(found.metrics),
        "seconds": found.record.get("seconds"),
        "problem": found.record.get("reason"),
    }
    return row


def _name(section: object) -> object:
    if not isinstance(section, dict):
        return None
    return section.get("dataset") or section.get("name")


def _checkpoints(path: Path) -> list[str]:
    """Folders relative to the run that hold weights, by step; float32 ones after their bf16 ones."""
    found = [one for step in checkpoints(path).values() for one in (step, step / "fp32")]
    return [str(one.relative_to(path)) for one in found if (one / "config.json").exists()]
