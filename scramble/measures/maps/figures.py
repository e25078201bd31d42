"""The figures of `scramble consensus` and `scramble rates`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float64
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scramble.errors import SelectionError
from scramble.measures.maps.heads import Boundary
from scramble.measures.maps.rates import SIDES, Profile, Side, smoothed
from scramble.present.plots import COLOURS, STYLE

MOST_MAPS, MOST_PROFILES = 64, 24
# Cells of a map along one side; lines that each covers at least, so that single weights do not set the scale.
MOST_CELLS, LEAST_LINES = 192, 3
# Perceptually uniform, and readable in grey and for colour-blind readers.
_MAP = "cividis"
# Characters that a legend has room for, in a line.
_WIDTH = 120


@dataclass(frozen=True)
class Map:
    """An image of a matrix.

    Attributes:
        cells: area means of the consensus ratio.
        shape: of the matrix.
        rows, columns: head boundaries.
        where: layer, module and name of the matrix, and more.
    """

    tensor: str
    cells: Float64[np.ndarray, "height width"]
    shape: tuple[int, int]
    rows: Sequence[Boundary]
    columns: Sequence[Boundary]
    where: Mapping[str, object]


def check_panels(tensors: Sequence[str], most: int) -> None:
    """Before anything is computed.

    Raises:
        SelectionError: more matrices than a figure can show.
    """
    if len(tensors) > most:
        raise SelectionError(
            f"--plot: {len(tensors)} matrices; this figure shows {most} at most, "
            "choose them by --layers and --modules"
        )


def cells(size: int) -> int:
    """Into how many cells a map divides a side of a matrix."""
    return max(1, min(MOST_CELLS, size // LEAST_LINES))


def consensus_figure(maps: Sequence[Map], runs: int) -> Figure:
    """One image a matrix, a row of them a layer (arXiv 2511.08567, figure 2); one scale for all.

    Lines are head boundaries, thick ones those of KV groups and of the parts of fused projections.
    """
    maps = sorted(maps, key=lambda one: _order(one.where))
    places = [one.where for one in maps]
    columns = _columns(places)
    rows = -(-len(maps) // columns)
    most = max(float(np.quantile(one.cells, 0.999)) for one in maps) or 1.0
    highest = max(float(one.cells.max()) for one in maps)
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
            ax.set_title(_title(one.where, places), fontsize=9, loc="left")
            ax.tick_params(labelsize=7)
        for ax in axes[len(maps) :]:
            ax.set_axis_off()
        bar = figure.colorbar(
            image, ax=list(axes), extend="max" if highest > most else "neither", aspect=15 * rows, pad=0.01
        )
        bar.set_label(f"consensus ratio of {runs} runs (area means)")
        bar.outline.set_linewidth(0.5)
    return figure


def rates_figure(profiles: Sequence[Profile], heads: Mapping[tuple[str, Side], Sequence[Boundary]]) -> Figure:
    """Rates of rows and columns, a line a checkpoint, a row of panels a matrix (figure 3 of the paper).

    Smoothed by `rates.smoothed`. Dotted: what the last checkpoint's change rates by magnitude
    predict. Vertical lines are head boundaries, dark ones those of KV groups and parts of fused projections.

    Args:
        heads: boundaries by tensor and side.
    """
    places = sorted({one.tensor: one.where for one in profiles}.values(), key=_order)
    tensors = [str(one["tensor"]) for one in places]
    names = list(dict.fromkeys(one.checkpoint for one in profiles))
    colours = (
        COLOURS if len(names) <= len(COLOURS) else matplotlib.colormaps[_MAP](np.linspace(0, 1, len(names)))
    )
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 0.7 + 1.75 * len(tensors)), layout="constrained")
        grid = figure.subplots(len(tensors), 2, squeeze=False, sharey="row")
        for axes, tensor, where in zip(grid, tensors, places, strict=True):
            for ax, side in zip(axes, SIDES, strict=True):
                here = [one for one in profiles if (one.tensor, one.side) == (tensor, side)]
                for line in heads.get((tensor, side), ()):
                    ax.axvline(line.at - 0.5, color="0.45" if line.heavy else "0.8", lw=0.8, zorder=0)
                for one in here:
                    ax.plot(smoothed(one.rate), color=colours[names.index(one.checkpoint)], lw=0.8)
                ax.plot(smoothed(here[-1].expected), color="0.1", ls=":", lw=1)
                ax.set_title(f"{_title(where, places)}, by {side}", fontsize=9, loc="left")
                ax.set_xlim(0, len(here[0].rate) - 1)
            axes[0].set_ylim(bottom=0)
            axes[0].set_ylabel("fraction changed")
        for ax, side in zip(grid[-1], SIDES, strict=True):
            ax.set_xlabel(side)
        lines = [Line2D([], [], color=colours[at], lw=1.2) for at in range(len(names))]
        lines.append(Line2D([], [], color="0.1", ls=":", lw=1.2))
        labels = [*_short(names), "change rate by magnitude" + ", last checkpoint" * (len(names) > 1)]
        figure.legend(
            lines,
            labels,
            loc="outside upper center",
            ncols=_WIDTH // max(map(len, labels)) or 1,
            frameon=False,
        )
    return figure


def _short(names: Sequence[str]) -> list[str]:
    """Folders without what their paths have in common, before and behind."""
    if len(names) == 1:
        return [Path(names[0]).name]
    parts = [Path(name).parts for name in names]
    shortest = min(map(len, parts)) - 1
    behind = next((n for n in range(shortest) if len({one[-1 - n] for one in parts}) > 1), shortest)
    before = next((n for n in range(shortest) if len({one[n] for one in parts}) > 1), shortest)
    return [str(Path(*one[min(before, len(one) - behind - 1) : len(one) - behind])) for one in parts]


def _line(boundary: Boundary) -> dict[str, Any]:
    return {"color": "white", "lw": 0.9 if boundary.heavy else 0.35, "alpha": 0.9}


def _order(where: Mapping[str, object]) -> tuple[int, str]:
    layer = where["layer"]
    return (-1 if layer is None else int(str(layer)), str(where["tensor"]))


def _columns(places: Sequence[Mapping[str, object]]) -> int:
    """Panels in a row: those of one layer, unless they are many."""
    layers = [one["layer"] for one in places]
    return min(8, max(layers.count(layer) for layer in layers))


def _title(where: Mapping[str, object], places: Sequence[Mapping[str, object]]) -> str:
    """Layer and module, and the tensor's name where these do not tell it from another."""
    here = [other for other in places if all(other[key] == where[key] for key in ("layer", "module"))]
    if where["layer"] is None or len(here) > 1:
        return str(where["tensor"]).removesuffix(".weight")
    return f"layer {where['layer']}, {where['module']}"
