"""What a checkpoint is, and which symmetries it has."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from scramble.checkpoints import open_checkpoint
from scramble.manifest import has_manifest, read_manifest
from scramble.symmetries import SYMMETRIES


def inspect(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows, one a symmetry (and a reason, where layers differ), and what holds for the whole checkpoint."""
    checkpoint = open_checkpoint(folder)
    architecture = checkpoint.architecture
    rows = []
    for name, kind in SYMMETRIES.items():
        symmetry = kind()
        answers: dict[str | None, list[int]] = {}
        for layer in range(architecture.layers):
            answers.setdefault(symmetry.forbidden(architecture, layer), []).append(layer)
        for reason, layers in answers.items():
            rows.append(
                {
                    "symmetry": name,
                    "axis": " ".join(kind.axes),
                    "layers": _ranges(layers),
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
        "axes": ", ".join(f"{axis}={size}" for axis, size in architecture.sizes.items()),
        "scrambles": "none",
    }
    if has_manifest(folder):
        steps = read_manifest(folder)[0].steps
        found = {name: [s.layer for s in steps if s.symmetry == name] for name in {s.symmetry for s in steps}}
        meta["scrambles"] = "; ".join(
            f"{name} in layers {_ranges(layers)}" for name, layers in sorted(found.items())
        )
    return rows, meta


def _ranges(numbers: list[int]) -> str:
    """`0-3,7`"""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
