"""A run folder, as everything that reads one sees it.

`run.json` (a record: how far the run is), `recipe.yaml` and `metrics.jsonl` (a row a step); checkpoints are
folders `checkpoints/step-N`, and `step-N/fp32` where float32 weights were kept. A folder is read whole or it
is damaged: a file that cannot be read never counts as one that is not there.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from pydantic import ValidationError

from scramble.errors import DamagedRunError, SelectionError
from scramble.files import is_locked
from scramble.present.notebook import html
from scramble.runrecord import FORMAT, FinishedRecord, Row, RunRecord, record_of

Status = Literal["missing", "running", "interrupted", "failed", "finished", "damaged"]
FILES = ("run.json", "recipe.yaml", "metrics.jsonl")
# Of a row of metrics, what is no number: digests.
_TEXTS = ("prompts", "rollouts")
_STEP = re.compile(
    r"(?<![A-Za-z0-9])(?:global_?step|step|checkpoint|ckpt|iter)[-_]?(\d+)(?![A-Za-z0-9]|\.\d)"
)


class Contents(NamedTuple):
    """The three files of a run folder, read together.

    Attributes:
        record: of `run.json`; None before the run has begun.
        recipe: of `recipe.yaml`; empty before it was written.
        metrics: rows of steps 1, 2, ...; a last line that is being written is left out.
    """

    record: RunRecord | None
    recipe: dict[str, Any]
    metrics: list[Row]


@dataclass(frozen=True, repr=False, init=False)
class RunFolder:
    """The folder of one run. A run is finished when its `run.json` says so, and then never runs again.

    Whatever is asked of a folder, its three files are read anew and together; of a damaged one, every answer
    but `status` and paths is a `DamagedRunError`.
    """

    path: Path

    def __init__(self, path: str | Path) -> None:
        object.__setattr__(self, "path", Path(path))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, {self.status})"

    def _repr_html_(self) -> str:
        if self.status in ("missing", "damaged"):
            return html(self, [])
        contents = self.read()
        record = contents.record
        known = {
            "model": contents.recipe.get("model"),
            "algorithm": (contents.recipe.get("algorithm") or {}).get("name"),
            "seed": None if record is None else record.seed,
            "steps": f"{len(contents.metrics)} of {contents.recipe.get('steps')}",
            "checkpoints": ", ".join(map(str, self.checkpoints)),
        }
        return html(self, [known])

    def read(self) -> Contents:
        """All three files, in an order in which a process that trains may write at the same time.

        Raises:
            DamagedRunError: a file cannot be read, or does not fit the others: a finished run has a row of
                metrics for every step and the recipe that it began with; checkpoints, metrics and states
                have a record.
        """
        record = _read_record(self.path)
        kept = [name for name in ("checkpoints", "metrics.jsonl", "state") if _exists(self.path / name)]
        if record is None and kept:
            raise DamagedRunError(self.path, f"run.json is missing, but {kept[0]} is there")
        return Contents(record, _read_recipe(self.path, record), _read_metrics(self.path, record))

    @property
    def record(self) -> RunRecord | None:
        """What `run.json` says; None before the run has begun."""
        return self.read().record

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe with every value that it left open; empty before it was written."""
        return self.read().recipe

    @property
    def metrics(self) -> list[Row]:
        """One row a step that was logged; a line that is being written is left out."""
        return self.read().metrics

    @property
    def status(self) -> Status:
        """`missing`, `running`, `interrupted` (no process holds it), `failed`, `finished` or `damaged`."""
        try:
            record = self.record
        except DamagedRunError:
            return "damaged"
        if record is None:
            return "missing"
        return "interrupted" if record.status == "running" and not self.held else record.status

    @property
    def held(self) -> bool:
        """Whether a process trains this run now, or there is no saying."""
        return is_locked(self.path)

    @property
    def finished(self) -> FinishedRecord:
        """The record of a finished run.

        Raises:
            SelectionError: it is not finished.
        """
        if isinstance(record := self.record, FinishedRecord):
            return record
        raise SelectionError(f"{self.path}: not finished ({self.status})")

    @property
    def last_step(self) -> int:
        """Where a finished run ended: the recipe's `steps`, or earlier if `match` or a collapse stopped it.

        Raises:
            SelectionError: it is not finished.
        """
        return self.finished.end.step

    @property
    def checkpoints(self) -> dict[int, Path]:
        """The checkpoints that are whole, in bf16, by step; see `fp32`."""
        found = {
            int(name[1]): path
            for path in self.path.glob("checkpoints/step-*")
            if (name := re.fullmatch(r"step-(\d+)", path.name))
        }
        return dict(sorted(found.items()))

    def checkpoint(self, step: int, *, fp32: bool = False) -> Path:
        """Where the checkpoint of a step is, or would be.

        Args:
            step: after how many steps of training.
            fp32: the float32 weights in place of the bf16 ones.

        Returns:
            Its folder, which need not exist.
        """
        folder = self.path / "checkpoints" / f"step-{step}"
        return folder / "fp32" if fp32 else folder

    def fp32(self, step: int) -> Path | None:
        """The float32 weights of a step.

        Args:
            step: after how many steps of training.

        Returns:
            Their folder, or None where they were not kept.
        """
        folder = self.checkpoint(step, fp32=True)
        return folder if folder.exists() else None

    @property
    def end(self) -> Path:
        """The last checkpoint of a finished run, in float32 where that was kept. It may not be there.

        Raises:
            SelectionError: it is not finished.
        """
        step = self.last_step
        return self.fp32(step) or self.checkpoint(step)


def run_of(checkpoint: Path) -> RunFolder | None:
    """The run folder of ours that a checkpoint lies in; None where there is none.

    Other trainers have a folder `checkpoints` too. Ours have `run.json` beside it; where that alone is lost,
    both other files.
    """
    for folder in checkpoint.parents[:3]:
        if folder.name == "checkpoints":
            record, *others = (_exists(folder.parent / name) for name in FILES)
            return RunFolder(folder.parent) if record or all(others) else None
    return None


def is_run(folder: Path) -> bool:
    """Whether a folder is a run folder, be it damaged: it has a record or a recipe."""
    return folder.is_dir() and any(_exists(folder / name) for name in ("run.json", "recipe.yaml"))


def step_of(checkpoint: str | Path) -> int | None:
    """The step of a checkpoint of any trainer, from its path.

    The innermost folder whose name has one counts: `step-20`, `step_20`, `checkpoint-20` (transformers),
    `global_step_30/actor` (verl), `iter_0000020` (Megatron). None without one, or with two that differ.
    """
    for name in reversed(Path(checkpoint).parts):
        if found := {int(digits) for digits in _STEP.findall(name)}:
            return found.pop() if len(found) == 1 else None
    return None


def _read_record(folder: Path) -> RunRecord | None:
    try:
        content = _parsed(folder, "run.json", json.loads)
    except FileNotFoundError:
        return None
    if not isinstance(content, dict):
        raise DamagedRunError(folder, "run.json is not a record")
    written = content.get("format", FORMAT)
    if type(written) is int and written > FORMAT:
        raise DamagedRunError(
            folder,
            f"run.json has format {written}, written by a newer version of scramble; this one reads {FORMAT}",
            "read it with that version, or move the folder away",
        )
    try:
        return record_of(content)
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"]))
        raise DamagedRunError(
            folder, f"run.json is not the record of a run: {key} is missing or wrong"
        ) from None


def _read_recipe(folder: Path, record: RunRecord | None) -> dict[str, Any]:
    try:
        content = _parsed(folder, "recipe.yaml", yaml.safe_load)
    except FileNotFoundError:
        if record is None:
            return {}
        raise DamagedRunError(folder, "recipe.yaml: No such file or directory") from None
    if not isinstance(content, dict):
        raise DamagedRunError(folder, "recipe.yaml is not a recipe")
    if record and record.recipe_hash and record.recipe_hash != recipe_hash(folder):
        raise DamagedRunError(folder, "recipe.yaml is not what it was when the run began")
    return content


def recipe_hash(folder: Path) -> str:
    """SHA-256 of `recipe.yaml`, which `run.json` keeps as `recipe_hash`."""
    return hashlib.sha256((folder / "recipe.yaml").read_bytes()).hexdigest()


def _read_metrics(folder: Path, record: RunRecord | None) -> list[Row]:
    try:
        lines = _text(folder, "metrics.jsonl").splitlines(keepends=True)
    except FileNotFoundError:
        lines = []
    finished = isinstance(record, FinishedRecord)
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
    last = record.end.step if isinstance(record, FinishedRecord) else len(rows)
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
