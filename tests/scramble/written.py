"""Checkpoint folders written by hand, and ends in which a share of the weights changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.models import weights

Tensors = dict[str, torch.Tensor]


def folder(path: Path, tensors: Tensors, **config: Any) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.contiguous() for name, value in tensors.items()},
        path / "model.safetensors",
        metadata={"format": "pt"},
    )
    (path / "config.json").write_text(json.dumps(config))
    return path


def moved(start: Path, end: Path, share: dict[str, float], seed: int = 0) -> Path:
    """An end where, of the tensors whose names hold a key, a share of the weights changed; others did not."""
    tensors, generator = weights(start), torch.Generator().manual_seed(seed)
    for name, value in tensors.items():
        for key, part in share.items():
            if key in name and value.is_floating_point() and value.ndim:
                count = round(part * value.numel())
                at = torch.randperm(value.numel(), generator=generator)[:count]
                value.view(-1)[at] += 1
    return folder(end, tensors, **json.loads((start / "config.json").read_text()))
