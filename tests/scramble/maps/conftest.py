"""Runs of the tiny model, and the commands of this package."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch

from scramble import cli
from scramble.maps.cli import commands
from tests.scramble.updates.test_tables import train

if not entry_points(group="scramble.commands", name="maps"):
    commands(cli.app)  # an installation from before the entry point was added


@pytest.fixture
def texts(checkpoint: Path, tmp_path: Path) -> list[str]:
    """Three runs of one start, as the command line takes them."""
    ends = [train(checkpoint, tmp_path / f"end{seed}", seed, torch.bfloat16) for seed in range(3)]
    return [f"{checkpoint}:{end}" for end in ends]
