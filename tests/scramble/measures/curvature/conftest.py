"""A tiny float64 model, a trained float32 end of it, and prompts; the commands of this package."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from scramble.measures.pairs.ends import CheckpointPair, ends
from tests.fake_runs import train
from tests.models import Tiny, weights, with_tokenizer


@pytest.fixture
def run(tmp_path: Path) -> CheckpointPair:
    """From bf16 to float32, with a tokenizer at the start; a third of the weights does not move."""
    tiny = Tiny("llama", kv_heads=2, group=2, head_dim=4, layers=2, seed=3, tied=True)
    start = with_tokenizer(tiny.save(tmp_path / "start", torch.bfloat16))
    end = train(start, tmp_path / "step-3", 0)
    old, new = weights(start), weights(end)
    for name, value in new.items():
        value.view(-1)[::3] = old[name].float().view(-1)[::3]
    save_file(new, end / "model.safetensors", metadata={"format": "pt"})
    return ends(start, end)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("7+12=19\n3+15=18\n9+4=13\n11+5=16\n8+8=16\n")
    return path


def eager(tiny: Tiny) -> PreTrainedModel:
    model = tiny.build()
    model.set_attn_implementation("eager")
    return model


def text(run: CheckpointPair) -> str:
    return f"{run.start.folder}:{run.end.folder}"
