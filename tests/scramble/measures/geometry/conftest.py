"""A run of the tiny model, from bf16 to bf16, and the commands of this package."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from scramble.measures.pairs.ends import CheckpointPair, ends
from tests.fake_runs import train


@pytest.fixture
def run(checkpoint: Path, tmp_path: Path) -> CheckpointPair:
    return ends(checkpoint, train(checkpoint, tmp_path / "end", 0, torch.bfloat16))
