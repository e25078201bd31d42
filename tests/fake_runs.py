"""Ends of runs without any training: noise of the size of bf16's rounding on a start."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from scramble.checkpoints import open_checkpoint
from scramble.symmetries import act
from scramble.transforms.record import read_record
from tests.models import weights


def train(start: Path, end: Path, seed: int, dtype: torch.dtype = torch.float32) -> Path:
    """An update of the size of bf16's rounding, drawn in the frame of the start."""
    end.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, value in weights(start).items():
        noise = torch.randn(value.shape, generator=generator) * 1e-3
        tensors[name] = (value.float() + noise).to(dtype)
    save_file(tensors, end / "model.safetensors", metadata={"format": "pt"})
    (end / "config.json").write_bytes((start / "config.json").read_bytes())
    return end


def transported(base: Path, start: Path, end: Path, target: Path) -> Path:
    """The same training in the scrambled frame: `start + R(end - base)`, by the manifest, in float64."""
    checkpoint = open_checkpoint(start)
    touched = read_record(start).transform(checkpoint).actions
    old, new, scrambled = weights(base), weights(end), weights(start)
    tensors = {}
    for name, value in scrambled.items():
        source = touched[name].source if name in touched else name
        delta = (new[source].double() - old[source].double()).numpy()
        if name in touched:
            action = touched[name]
            delta = act(delta, action.layout, checkpoint.architecture.slots()[name].sizes, action.elements)
        tensors[name] = (value.double() + torch.from_numpy(delta)).float()
    target.mkdir()
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_bytes((base / "config.json").read_bytes())
    return target
