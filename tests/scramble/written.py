"""Checkpoint folders written by hand, and ends in which a share of the weights changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.models import Tiny, edit_config, weights

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


def with_mtp(folder: Path) -> Path:
    """DeepSeek-V3 with an MTP layer behind its two."""
    tiny = Tiny("deepseek_v3", 2, 1, 8, 2, seed=2)
    base = tiny.save(folder / "base")
    tensors = weights(base)
    hidden, generator = tensors["model.norm.weight"].shape[0], torch.Generator().manual_seed(3)
    last = {
        name.replace("layers.1.", "layers.2."): torch.randn(
            value.shape, generator=generator, dtype=torch.float64
        )
        for name, value in tensors.items()
        if "layers.1." in name
    }
    shapes = {"embed_tokens.weight": (31, hidden), "enorm.weight": (hidden,), "hnorm.weight": (hidden,)}
    shapes |= {"eh_proj.weight": (hidden, 2 * hidden), "shared_head.norm.weight": (hidden,)}
    shapes |= {"shared_head.head.weight": (31, hidden)}
    for name, shape in shapes.items():
        last[f"model.layers.2.{name}"] = torch.randn(shape, generator=generator, dtype=torch.float64)
    save_file(tensors | last, base / "model.safetensors", metadata={"format": "pt"})
    edit_config(base, num_nextn_predict_layers=1)
    return base
