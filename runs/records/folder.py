"""The writing side of a run folder (`scramble.runfolder` says what is in one).

While a run is not finished it has `state/step-N/` too, to go on from (`scramble.runs.engine.resume`).
"""

from __future__ import annotations

import json
import re
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import yaml

from scramble.errors import RunError
from scramble.files import locked, write_whole
from scramble.runfolder import RunFolder, recipe_hash
from scramble.runrecord import FORMAT, record_of
from scramble.runs.recipe.recipe import Recipe


class WritableRun(RunFolder):
    """A run folder that a run is written into.

    What is not finished may be cleared away; what is finished or damaged never is: whatever changes a folder
    reads it first.
    """

    def state(self, step: int) -> Path:
        return self.path / "state" / f"step-{step}"

    @property
    def state_step(self) -> int | None:
        """The step of the last state that is whole; None if there is none."""
        found = [re.fullmatch(r"step-(\d+)", path.name) for path in self.path.glob("state/step-*")]
        return max((int(name[1]) for name in found if name), default=None)

    def drop_state(self) -> None:
        """Take away the states: of a finished run, or of one that begins anew.

        Raises:
            DamagedRunError: the folder cannot be read.
        """
        self.read()
        shutil.rmtree(self.path / "state", ignore_errors=True)

    def cut_back(self, step: int) -> None:
        """Take away what came after a step: rows of metrics and checkpoints.

        Raises:
            RunError: the run is finished, or damaged.
        """
        self._may_be_cleared()
        rows = "".join(json.dumps(row) + "\n" for row in self.metrics[:step])
        write_whole(self.path / "metrics.jsonl", rows)
        kept = {path for at, path in self.checkpoints.items() if at <= step}
        for path in self.path.glob("checkpoints/step-*"):
            if path not in kept:
                shutil.rmtree(path)

    def write_record(self, **entries: Any) -> None:
        """Add to `run.json`, whole or not at all.

        Raises:
            DamagedRunError: the folder cannot be read.
            ValueError: an entry is not what a `RunRecord` has.
        """
        record = self.record
        content = {"format": FORMAT} | (record.content() if record else {}) | entries
        text = json.dumps(content, indent=2, default=str) + "\n"
        record_of(json.loads(text))
        write_whole(self.path / "run.json", text)

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
        record = self.record
        if record and record.status == "finished":
            raise RunError(f"{self.path}: the run is finished, and a finished run is never trained again")

    def locked(self) -> AbstractContextManager[None]:
        """Hold the folder; the lock dies with the process.

        Raises:
            TargetError: another process holds it.
        """
        return locked(self.path, "another process is training this run now")


def run_folder(out: Path, recipe: Recipe, start_hash: str) -> WritableRun:
    """`out/<name>-<hash>`: the hash of what decides the weights; a run of another name is found too.

    Raises:
        DamagedRunError: there is such a folder, and it cannot be read.
    """
    digest = recipe.identity(start_hash)[:12]
    same = [WritableRun(path) for path in sorted(out.glob(f"*-{digest}"))]
    begun = [run for run in same if run.record]
    return begun[0] if begun else WritableRun(out / f"{recipe.name}-{digest}")
