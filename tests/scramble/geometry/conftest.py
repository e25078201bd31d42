"""A run of the tiny model, from bf16 to bf16, and the commands of this package."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch

from scramble import cli
from scramble.geometry.cli import commands
from scramble.updates.ends import Run, ends
from tests.scramble.updates.test_tables import train

if not entry_points(group="scramble.commands", name="geometry"):
    commands(cli.app)  # an installation from before the entry point was added


@pytest.fixture
def run(checkpoint: Path, tmp_path: Path) -> Run:
    return ends(checkpoint, train(checkpoint, tmp_path / "end", 0, torch.bfloat16))
