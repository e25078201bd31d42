"""A run folder: `recipe.yaml`, `run.json`, `metrics.jsonl`, `checkpoints/step-N/` (and `step-N/fp32/`).

While it is not finished, `state/step-N/` too: what it goes on from (see `scramble.runs.engine.resume`).
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scramble.errors import DamagedRunError, RunError, TargetError
from scramble.runfolder import checkpoints, read_record, read_run, recipe_hash
from scramble.runs.recipe.recipe import Recipe


@dataclass(frozen=True)
class RunFolder:
    """Where one run lives. A run is finished when its `run.json` says so, and then never runs again.

    What reads or changes a damaged folder raises `DamagedRunError`; `status` says so.
    """

    path: Path

    @property
    def record(self) -> dict[str, Any]:
        """What `run.json` holds; empty before the run has begun."""
        return read_record(self.path)

    @property
    def status(self) -> str:
        """`missing`, `running`, `interrupted` (no process holds it), `failed`, `finished` or `damaged`."""
        try:
            found = str(read_run(self.path).record.get("status", "missing"))
        except DamagedRunError:
            return "damaged"
        return "interrupted" if found == "running" and not self.held else found

    @property
    def held(self) -> bool:
        """Whether a process trains this run now, or will not say."""
        try:
            with self.locked():
                return False
        except (OSError, TargetError):
            return True

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One row a step that was logged; a line that is being written is left out."""
        return read_run(self.path).metrics

    @property
    def last_step(self) -> int:
        """Where a finished run ended: the recipe's `steps`, or earlier if `match` stopped it."""
        return int(self.record["end"]["step"])

    def checkpoint(self, step: int, *, fp32: bool = False) -> Path:
        folder = self.path / "checkpoints" / f"step-{step}"
        return folder / "fp32" if fp32 else folder

    def state(self, step: int) -> Path:
        return self.path / "state" / f"step-{step}"

    @property
    def state_step(self) -> int | None:
        """The step of the last state that is whole; None if there is none."""
        found = [re.fullmatch(r"step-(\d+)", path.name) for path in self.path.glob("state/step-*")]
        return max((int(name[1]) for name in found if name), default=None)

    def drop_state(self) -> None:
        shutil.rmtree(self.path / "state", ignore_errors=True)

    def cut_back(self, step: int) -> None:
        """Take away what came after a step: rows of metrics and checkpoints.

        Raises:
            RunError: the run is finished, or damaged.
        """
        self._may_be_cleared()
        rows = "".join(json.dumps(row) + "\n" for row in self.metrics[:step])
        write_whole(self.path / "metrics.jsonl", rows)
        kept = {path for at, path in checkpoints(self.path).items() if at <= step}
        for path in self.path.glob("checkpoints/step-*"):
            if path not in kept:
                shutil.rmtree(path)

    def write_record(self, **entries: Any) -> None:
        """Add to `run.json`, whole or not at all."""
        content = json.dumps(self.record | entries, indent=2, default=str) + "\n"
        write_whole(self.path / "run.json", content)

    def begin(self, recipe: Recipe) -> None:
        """Clear what an interrupted run left, and write the recipe.

        `run.json` goes last: checkpoints without a record are no run that may be cleared.

        Raises:
            RunError: the run is finished, or damaged.
        """
        self._may_be_cleared()
        self.drop_state()
        for name in ("checkpoints", "tensorboard", "trackio", "wandb"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in ("metrics.jsonl", "run.json"):
            (self.path / name).unlink(missing_ok=True)
        self.write_recipe(recipe)

    def write_recipe(self, recipe: Recipe) -> None:
        """The recipe with every value that it left open."""
        write_whole(
            self.path / "recipe.yaml", yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
        )

    @property
    def recipe_hash(self) -> str:
        return recipe_hash(self.path)

    def _may_be_cleared(self) -> None:
        if read_run(self.path).record.get("status") == "finished":
            raise RunError(f"{self.path}: the run is finished, and a finished run is never trained again")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; the lock dies with the process.

        Raises:
            TargetError: another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            for patience in (0.1, 0.1, None):  # who only looks (`held`) lets go at once
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if patience is None:
                        raise TargetError(f"{self.path}: another process is training this run now") from None
                    time.sleep(patience)
            yield
        finally:
            os.close(descriptor)


def write_whole(path: Path, text: str) -> None:
    """Put a text in the place of a file, flushed to the disk: whole or not at all, whenever power fails."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    flush(partial)
    partial.rename(path)
    flush(path.parent)


def sync(folder: Path) -> None:
    """Flush a folder and the files in it to the disk."""
    for path in [*(path for path in folder.iterdir() if path.is_file()), folder]:
        flush(path)


def flush(path: Path) -> None:
    """Flush one file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def run_folder(out: Path, recipe: Recipe, start_hash: str) -> RunFolder:
    """`out/<name>-<hash>`: the hash of what decides the weights; a run of another name is found too.

    Raises:
        DamagedRunError: there is such a folder, and it cannot be read.
    """
    digest = recipe.identity(start_hash)[:12]
    same = sorted(out.glob(f"*-{digest}"))
    begun = [path for path in same if read_run(path).record]
    return RunFolder(begun[0] if begun else out / f"{recipe.name}-{digest}")
