"""A run folder: `recipe.yaml`, `run.json`, `metrics.jsonl`, `checkpoints/step-N/` (and `step-N/fp32/`).

While it is not finished, `state/step-N/` too: what it goes on from (see `runs.resume`).
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from runs.recipe import Recipe
from scramble.errors import TargetError


@dataclass(frozen=True)
class RunFolder:
    """Where one run lives. A run is finished when its `run.json` says so, and then never runs again."""

    path: Path

    @property
    def record(self) -> dict[str, Any]:
        """What `run.json` holds; empty before the run has begun, or if the file is damaged."""
        try:
            content = json.loads((self.path / "run.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    @property
    def status(self) -> str:
        """`missing`, `running`, `interrupted` (no process holds it any more), `failed` or `finished`."""
        said = str(self.record.get("status", "missing"))
        return "interrupted" if said == "running" and not self.held else said

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
        try:
            lines = (self.path / "metrics.jsonl").read_text().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines if line.endswith("\n")]

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
        names = [path.name.removeprefix("step-") for path in self.path.glob("state/step-*")]
        return max((int(name) for name in names if name.isdigit()), default=None)

    def drop_state(self) -> None:
        shutil.rmtree(self.path / "state", ignore_errors=True)

    def cut_back(self, step: int) -> None:
        """Take away what came after a step: rows of metrics and checkpoints."""
        rows = [row for row in self.metrics if row["step"] <= step]
        partial = self.path / "metrics.jsonl.partial"
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows))
        partial.rename(self.path / "metrics.jsonl")
        for path in self.path.glob("checkpoints/step-*"):
            number = path.name.removeprefix("step-")
            if not number.isdigit() or int(number) > step:
                shutil.rmtree(path)

    def write_record(self, **entries: Any) -> None:
        """Add to `run.json`, whole or not at all."""
        content = json.dumps(self.record | entries, indent=2, default=str) + "\n"
        partial = self.path / "run.json.partial"
        partial.write_text(content)
        partial.rename(self.path / "run.json")

    def begin(self, recipe: Recipe) -> None:
        """Clear what an interrupted run left, and write the recipe."""
        self.drop_state()
        for name in ("checkpoints", "tensorboard", "trackio", "wandb"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in ("metrics.jsonl", "run.json"):
            (self.path / name).unlink(missing_ok=True)
        self.write_recipe(recipe)

    def write_recipe(self, recipe: Recipe) -> None:
        """The recipe with every value that it left open."""
        content = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
        (self.path / "recipe.yaml").write_text(content)

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


def sync(folder: Path) -> None:
    """Flush a folder and the files in it to the disk."""
    for path in [*(path for path in folder.iterdir() if path.is_file()), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def run_folder(out: Path, recipe: Recipe, start_hash: str) -> RunFolder:
    """`out/<name>-<hash>`: the hash of what decides the weights; a run of another name is found too."""
    digest = recipe.identity(start_hash)[:12]
    same = sorted(path for path in out.glob(f"*-{digest}") if (path / "run.json").exists())
    return RunFolder(same[0] if same else out / f"{recipe.name}-{digest}")
