"""Where metrics go beside the run folder: nowhere, unless the recipe says so. No telemetry in any case."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from scramble.errors import MissingDependencyError, RunError
from scramble.runs.recipe.releases import within

Tracker = Literal["trackio", "tensorboard", "wandb"]
_OLDEST = {"trackio": "0.21"}  # transformers calls it with arguments that earlier ones do not know
_SILENT = {"HF_HUB_DISABLE_TELEMETRY": "1", "DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}


def check(trackers: Sequence[Tracker]) -> None:
    """Before anything is written.

    Raises:
        MissingDependencyError: one is not installed, or too old.
        RunError: trackio cannot be told where to write: it decides that when it is imported, as TRL does.
    """
    for name in trackers:
        try:
            found = version(name)
        except PackageNotFoundError:
            raise MissingDependencyError(f"report_to: {name} is not installed: pip install {name}") from None
        if name in _OLDEST and not within(found, _OLDEST[name]):
            raise MissingDependencyError(
                f"report_to: {name} {found} is installed, {_OLDEST[name]} or later is needed"
            )
    if "trackio" in trackers and "trackio" in sys.modules and "TRACKIO_DIR" not in os.environ:
        raise RunError(
            "report_to: trackio is loaded and keeps the folder that it has: "
            "train this run in another process, or set TRACKIO_DIR before"
        )


def arguments(trackers: Sequence[Tracker], name: str) -> dict[str, Any]:
    """Arguments of transformers' `TrainingArguments`; what is written to a hub stays off."""
    chosen: dict[str, Any] = {"report_to": list(trackers) or "none", "run_name": name}
    if "trackio" in trackers:
        chosen |= {"project": "scramble", "trackio_space_id": None, "trackio_static_space_id": False}
    return chosen


@contextmanager
def reporting(trackers: Sequence[Tracker], folder: Path) -> Iterator[None]:
    """While a run trains: TensorBoard writes into `folder/tensorboard`, the others into `folder`."""
    no_telemetry()
    places = {
        "tensorboard": {"TENSORBOARD_LOGGING_DIR": str(folder / "tensorboard")},
        "trackio": {"TRACKIO_DIR": str(folder / "trackio")},
        "wandb": {"WANDB_DIR": str(folder), "WANDB_PROJECT": "scramble"},
    }
    wanted = {key: value for name in trackers for key, value in places[name].items() if key not in os.environ}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for key in wanted:
            del os.environ[key]


def no_telemetry() -> None:
    """TRL, huggingface_hub and others tell their makers that they are used; not from here."""
    os.environ.update(_SILENT)
    constants = sys.modules.get("huggingface_hub.constants")  # it read the environment when it was imported
    if constants is not None:
        constants.HF_HUB_DISABLE_TELEMETRY = True  # type: ignore[attr-defined]
