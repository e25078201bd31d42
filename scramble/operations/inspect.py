"""What a checkpoint is, and which symmetries it has."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from scramble.architecture import Architecture
from scramble.checkpoints import locate, open_checkpoint
from scramble.columns import described
from scramble.symmetries import SYMMETRIES
from scramble.transforms.plan import uneven_gain
from scramble.transforms.record import find_record
from scramble.transforms.selection import ranges


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
                    "layers": "all at once" if kind.whole else ranges(layers),
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
        meta["scrambles"] = "; ".join(record.manifest.described())
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
