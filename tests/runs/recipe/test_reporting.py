"""Nothing is sent anywhere unasked; TensorBoard gets what it is asked for."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from scramble.errors import MissingDependencyError
from scramble.runs.cli import progress_text
from scramble.runs.engine.run import run
from scramble.runs.recipe import reporting
from scramble.runs.recipe.recipe import Recipe

pytestmark = pytest.mark.train

# In a process of its own that is not told to be offline; every connection and look-up is noted.
WATCHED = """
import json, sys
calls = []
def note(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        calls.append([event, str(arguments[1:])])
sys.addaudithook(note)
import huggingface_hub.utils
from pathlib import Path
from scramble.runs.recipe.recipe import Recipe
from scramble.runs.engine.run import run
run(Recipe.model_validate(json.loads(sys.argv[1])), Path(sys.argv[2]), threads=1)
import huggingface_hub.utils._telemetry as telemetry
telemetry._TELEMETRY_QUEUE.join()
again = ""
if "trackio" in sys.argv[1]:
    try:
        run(Recipe.model_validate(json.loads(sys.argv[1]) | {"seed": 2}), Path(sys.argv[2]), threads=1)
    except Exception as error:
        again = str(error)
trackers = [name for name in ("tensorboard", "torch.utils.tensorboard") if name in sys.modules]
if "wandb" in sys.modules and sys.modules["wandb"].run is not None:  # TRL imports it, and trackio
    trackers.append("wandb")
print(json.dumps({"calls": calls, "trackers": trackers, "again": again}))
"""


def watched(content: dict[str, Any], out: Path, **variables: str) -> dict[str, Any]:
    wanted = {"CI", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK"}
    environment = {key: value for key, value in os.environ.items() if key not in wanted}
    found = subprocess.run(
        [sys.executable, "-c", WATCHED, json.dumps(content), str(out)],
        env=environment | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    said: dict[str, Any] = json.loads(next(line for line in found.stdout.splitlines() if line[:2] == '{"'))
    return said


def test_without_report_to_no_tracker_runs_and_nobody_is_called(
    content: dict[str, Any], tmp_path: Path
) -> None:
    assert watched(content, tmp_path / "out") == {"calls": [], "trackers": [], "again": ""}
    for tracker in ("tensorboard", "trackio", "wandb"):
        assert not list((tmp_path / "out").glob(f"*/{tracker}"))


def test_tensorboard_has_the_metrics(content: dict[str, Any], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plain = run(Recipe.model_validate(content), tmp_path / "plain", threads=1)
    folder = run(Recipe.model_validate(content | {"report_to": ["tensorboard"]}), tmp_path / "out", threads=1)
    assert plain.path.name == folder.path.name
    events = EventAccumulator(str(folder.path / "tensorboard"))
    events.Reload()
    shown = [(event.step, event.value) for event in events.Scalars("train/reward")]
    assert shown == [(row["step"], pytest.approx(row["reward"])) for row in folder.metrics]
    assert [row["rollouts"] for row in plain.metrics] == [row["rollouts"] for row in folder.metrics]
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ


def test_trackio_and_wandb_have_the_metrics_and_call_nobody_while_wandb_is_offline(
    content: dict[str, Any], tmp_path: Path
) -> None:
    said = watched(content | {"report_to": ["trackio", "wandb"]}, tmp_path / "out", WANDB_MODE="offline")
    assert [call for call in said["calls"] if "/socket'" not in call[1]] == []  # wandb's own, a Unix socket
    assert "trackio is loaded and keeps the folder that it has" in said["again"]
    (folder,) = (path for path in (tmp_path / "out").glob("run-*") if (path / "metrics.jsonl").exists())
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    with sqlite3.connect(folder / "trackio" / "scramble.db") as database:
        kept = [json.loads(one) for (one,) in database.execute("select metrics from metrics order by id")]
    assert [one["train/reward"] for one in kept if "train/reward" in one] == [row["reward"] for row in rows]
    (log,) = (folder / "wandb").glob("offline-run-*/*.wandb")
    assert b"train/reward" in log.read_bytes()


def test_what_is_missing_or_too_old_is_one_line_before_anything_is_written(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name == "wandb":
            raise reporting.PackageNotFoundError(name)
        return "0.0.6"

    monkeypatch.setattr(reporting, "version", version)
    for name, message in {
        "wandb": "report_to: wandb is not installed: pip install wandb",
        "trackio": "report_to: trackio 0.0.6 is installed, 0.21 or later is needed",
    }.items():
        with pytest.raises(MissingDependencyError, match=message):
            run(Recipe.model_validate(content | {"report_to": [name]}), tmp_path / "out", threads=1)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="report_to"):
        Recipe.model_validate(content | {"report_to": ["clearml"]})


@pytest.mark.parametrize(
    ("found", "serves"),
    [
        *(("0.21", True), ("0.21rc1", True), ("0.21.0+local.1", True), ("1", True), ("1.0rc1", True)),
        *(("0.20.9", False), ("0.20rc1+local", False), ("0", False), ("of my own", False)),
    ],
)
def test_versions_of_a_tracker(found: str, serves: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "version", lambda name: found)
    monkeypatch.setenv("TRACKIO_DIR", "x")
    with nullcontext() if serves else pytest.raises(MissingDependencyError, match="or later is needed"):
        reporting.check(["trackio"])


def test_the_line_of_progress() -> None:
    row = {"reward": 0.25, "kl": 0.00125, "tokens_per_second": 351.4, "step": 3}
    assert progress_text(row) == "reward 0.250  KL 0.00125  351 tokens/s"
    assert progress_text({"loss": 1.5}) == "loss 1.5"
