"""What run folders say: one line a run, or all of one run. A damaged folder is said to be damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scramble.errors import DamagedRunError, SelectionError
from scramble.runfolder import RunFolder, is_run
from scramble.runs.records.summary import first_and_last

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
    return [_row(path) for path in sorted(out.iterdir()) if is_run(path)]


def show_run(path: Path) -> Row:
    """All of a run: `run.json`, the recipe, the last metrics and which checkpoints there are.

    Raises:
        SelectionError: not a run folder.
        DamagedRunError: it cannot be read.
    """
    if not is_run(path):
        raise SelectionError(f"{path}: not a run folder: neither run.json nor recipe.yaml is there")
    run = RunFolder(path)
    found = run.read()
    return {
        "run": str(path),
        **(found.record.content() if found.record else {}),
        "status": run.status,
        "recipe": found.recipe,
        "last_metrics": found.metrics[-1] if found.metrics else {},
        "checkpoints": _checkpoints(run),
    }


def _row(path: Path) -> Row:
    run = RunFolder(path)
    row: Row = dict.fromkeys(_COLUMNS) | {"run": path.name, "status": "damaged"}
    try:
        found = run.read()
    except DamagedRunError as error:
        return row | {"problem": error.why}
    row |= {
        "status": run.status,
        "algorithm": _name(found.recipe.get("algorithm")),
        "task": _name(found.recipe.get("task")),
        "seed": found.recipe.get("seed"),
        "step": len(found.metrics),
        "steps": found.recipe.get("steps"),
        **first_and_last(found.metrics),
        "seconds": found.record.seconds if found.record else None,
        "problem": found.record.reason if found.record else None,
    }
    return row


def _name(section: object) -> object:
    if not isinstance(section, dict):
        return None
    return section.get("dataset") or section.get("name")


def _checkpoints(run: RunFolder) -> list[str]:
    """Folders relative to the run that hold weights, by step; float32 ones after their bf16 ones."""
    found = [one for step, path in run.checkpoints.items() for one in (path, run.fp32(step)) if one]
    return [str(one.relative_to(run.path)) for one in found if (one / "config.json").exists()]
