"""The embedded default experiment."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import as_file, files
from typing import Any

from scramble.checkpoints import locate, open_checkpoint
from scramble.errors import SelectionError
from scramble.interventions.demo_model import NOTE, demo_model
from scramble.interventions.experiment import Experiment, read_experiment

_SMOKE_NOTE = "A smoke run of two steps: it shows that the parts work together; its values mean nothing."


def demo_experiment(
    model: str | None, *, smoke: bool = False, report: Callable[[str], None] = lambda message: None
) -> Experiment:
    """The demo's experiment on its own model, or on a local one.

    Raises:
        SelectionError: a local model with fewer than 26 layers, as the demo treats layers 20 and 25.
    """
    base = locate(model) if model else demo_model(report)
    layers = open_checkpoint(base).architecture.layers
    if layers < 26:
        raise SelectionError(f"{base}: the demo treats layers 20 and 25, this model has {layers}")
    with as_file(files("scramble.interventions") / "demo.yaml") as path:
        experiment = read_experiment(path, base=str(base), notes=[] if model else [NOTE])
        return _smoke(experiment) if smoke else experiment


def _smoke(experiment: Experiment) -> Experiment:
    """Two steps, and three runs: two base seeds and one scrambled."""
    recipe: dict[str, Any] = experiment.recipe | {"steps": 2, "fp32_steps": [2]}
    recipe["algorithm"] = recipe["algorithm"] | {"prompts": 2, "generations": 4}
    recipe["evaluation"] = recipe["evaluation"] | {"size": 16}
    arms = experiment.arms | {"scrambled": experiment.arms["scrambled"].model_copy(update={"seeds": (2,)})}
    return experiment.model_copy(
        update={
            "name": "demo-smoke",
            "recipe": recipe,
            "arms": arms,
            "notes": (*experiment.notes, _SMOKE_NOTE),
        }
    )
