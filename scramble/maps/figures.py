"""The figures of `scramble consensus` and `scramble rates`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float64
from matplotlib.figure import Figure

from scramble.errors import SelectionError
from scramble.maps.heads import Boundary
from scramble.plots import STYLE
from scramble.updates.ratios import place

MOST_PANELS = 64
CELLS = 192
# Perceptually uniform, and readable in grey and for colour-blind readers.
_MAP = "cividis"


@dataclass(frozen=True)
class Map:
    """An image of a matrix.

    Attributes:
        cells: area means of the consensus ratio.
        shape: of the matrix.
        rows, columns: head boundaries.
    """

    tensor: str
    cells: Float64[np.ndarray, "height width"]
    shape: tuple[int, int]
    rows: Sequence[Boundary]
    columns: Sequence[Boundary]


def check_panels(tensors: Sequence[str]) -> None:
    """Before anything is computed.

    Raises:
        SelectionError: more matrices than a figure can show, or none.
    """
    if not 1 <= len(tensors) <= MOST_PANELS:
        raise SelectionError(
            f"--plot: {len(tensors)} matrices; a figure shows 1 to {MOST_PANELS}, "
            "choose them by --layers and --modules"
        )


def consensus_figure(maps: Sequence[Map], runs: int) -> Figure:
    """One image a matrix, a row of them a layer (arXiv 2511.08567, figure 2); one scale for all.

    Lines are head boundaries, thick ones those of KV groups and of the parts of fused projections.
    """
    maps = sorted(maps, key=lambda one: _order(one.tensor))
    columns = _columns([one.tensor for one in maps])
    rows = -(-len(maps) // columns)
    most = max(float(np.quantile(one.cells, 0.999)) for one in maps) or 1.0
    with matplotlib.rc_context(STYLE | {"axes.spines.top": True, "axes.spines.right": True}):
        figure = Figure(figsize=(0.9 + 2.9 * columns, 0.5 + 2.75 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax, one in zip(axes, maps, strict=False):
            high, wide = one.shape
            image = ax.imshow(
                one.cells, cmap=_MAP, vmin=0, vmax=most, aspect="auto", extent=(0, wide, high, 0)
            )
            for line in one.rows:
                ax.axhline(line.at, **_line(line))
            for line in one.columns:
                ax.axvline(line.at, **_line(line))
            ax.set_title(_title(one.tensor, [other.tensor for other in maps]), fontsize=9, loc="left")
            ax.tick_params(labelsize=7)
        for ax in axes[len(maps) :]:
            ax.set_axis_off()
        bar = figure.colorbar(image, ax=list(axes), extend="max", aspect=15 * rows, pad=0.01)
        bar.set_label(f"consensus ratio: share of {runs} runs that changed a coordinate (area means)")
        bar.outline.set_linewidth(0.5)
    return figure


def _line(boundary: Boundary) -> dict[str, Any]:
    return {"color": "white", "lw": 0.9 if boundary.heavy else 0.35, "alpha": 0.9}


def _order(tensor: str) -> tuple[int, str]:
    layer = place(tensor)["layer"]
    return (-1 if layer is None else int(str(layer)), tensor)


def _columns(tensors: Sequence[str]) -> int:
    """Panels in a row: those of one layer, unless they are many."""
    layers = [place(tensor)["layer"] for tensor in tensors]
    return min(8, max(layers.count(layer) for layer in layers))


def _title(tensor: str, others: Sequence[str]) -> str:
    """Layer and module, and the tensor's name where these do not tell it from another."""
    where = place(tensor)
    here = [other for other in others if place(other) | {"tensor": 0} == where | {"tensor": 0}]
    if where["layer"] is None or len(here) > 1:
        return tensor.removesuffix(".weight")
    return f"layer {where['layer']}, {where['module']}"
