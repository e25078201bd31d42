"""Runs of the tiny model, and the commands of this package."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.fake_runs import train


@pytest.fixture
def texts(checkpoint: Path, tmp_path: Path) -> list[str]:
    """Three runs of one start, as the command line takes them."""
    ends = [train(checkpoint, tmp_path / f"end{seed}", seed, torch.bfloat16) for seed in range(3)]
    return [f"{checkpoint}:{end}" for end in ends]
