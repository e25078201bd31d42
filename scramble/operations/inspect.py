"""What a checkpoint is, and which symmetries it has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from scramble.architecture import Architecture
from scramble.checkpoints import locate, open_checkpoint
from scramble.columns import described
from scramble.symmetries import SYMMETRIES
from scramble.transforms.plan import uneven_gain
from scramble.transforms.record import find_record


def inspect(model: str | Path) -> pd.DataFrame:
    """What a checkpoint is, and which symmetries it has.

    Args:
        model: a folder, or a hub id `org/name@revision`.

    Returns:
        A row a symmetry, and a row a reason where layers differ; `attrs["meta"]` is what holds for the whole
        checkpoint: family, layers, parameters, dtypes, axes, scrambles.

    Raises:
        ScrambleError: no such checkpoint, or no table of its family.
    """
    folder = locate(model)
    checkpoint = open_checkpoint(folder)
    architecture = checkpoint.architecture
    rows = []
    for name, kind in SYMMETRIES.items():
        symmetry = kind()
        answers: dict[str | None, list[int | None]] = {}
        uneven = uneven_gain(checkpoint, kind.equal_gains) if kind.equal_gains else None
        for layer in [None] if kind.whole else range(architecture.layers):
            reason = symmetry.forbidden(architecture, layer) or uneven
            answers.setdefault(reason, []).append(layer)
        for reason, layers in answers.items():
            rows.append(
                {
                    "symmetry": name,
                    "axis": " ".join(kind.axes),
                    "layers": "all at once" if kind.whole else _ranges(layers),
                    "applies": reason is None,
                    "group": symmetry.group(architecture, layers[0]) if reason is None else None,
                    "reason": reason,
                    "options": ", ".join(
                        f"{key}={field.default}" for key, field in kind.model_fields.items()
                    ),
                }
            )
    meta: dict[str, Any] = {
        "family": architecture.family.name,
        "layers": architecture.layers,
        "parameters": sum(math.prod(checkpoint.tensors[name].shape) for name in checkpoint.parameters),
        "stored": ", ".join(sorted({entry.dtype for entry in checkpoint.tensors.values()})),
        "axes": ", ".join(f"{axis}={size}" for axis, size in _axes(architecture).items()),
        "scrambles": "none",
    }
    if record := find_record(folder):
        manifest = record.manifest
        found = dict[str, list[int | None]]()
        for step in manifest.steps:
            found.setdefault(step.symmetry, []).append(step.layer)
        told = ["folded"] * (manifest.fold is not None)
        told += [f"{name} in {_where(layers)}" for name, layers in sorted(found.items())]
        meta["scrambles"] = "; ".join(told)
    table = pd.DataFrame(rows)
    table.attrs = {"measure": "inspect", "meta": meta, "columns": described("inspect", list(table))}
    return table


def _axes(architecture: Architecture) -> dict[str, str]:
    """Lengths of the axes, one behind another where layers differ: `neuron=20/24`."""
    found: dict[str, set[int]] = {}
    for layer in (None, *range(architecture.layers)):
        for axis, size in architecture.sizes_of(layer).items():
            found.setdefault(axis, set()).add(size)
    return {axis: "/".join(map(str, sorted(sizes))) for axis, sizes in found.items()}


def _where(layers: list[int | None]) -> str:
    return "the whole model" if None in layers else f"layers {_ranges(layers)}"


def _ranges(layers: Sequence[int | None]) -> str:
    """`0-3,7`"""
    parts: list[list[int]] = []
    for number in sorted({layer for layer in layers if layer is not None}):
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
