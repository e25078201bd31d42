"""The figures of `scramble spectra` and `scramble principal`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from scramble.measures.geometry.principal import principal
from scramble.measures.geometry.spectra import Spectrum, spectra
from scramble.present.plots import COLOURS, MARKERS, STYLE, whole_numbers

_LINES = ("-", "--")
_KINDS = {
    "principal": "principal",
    "low_magnitude": "low magnitude",
    "principal_not_low": "principal, not low magnitude",
}


def spectra_figure(measured: Sequence[Spectrum]) -> Figure:
    """Largest angles and NSS against layer, and singular values of the middle layer (figures 1, 4, 8).

    A line is a module (its matrices in a layer together). Matrices outside the layers are not drawn.
    """
    table = spectra(measured, ["layer-module"]).dropna(subset=["layer"])
    modules = sorted(set(table["module"]))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 6.4), layout="constrained")
        (left, right), (shift, curves) = figure.subplots(2, 2)
        for ax, side in ((left, "left"), (right, "right")):
            _by_layer(ax, table, modules, f"angle_{side}_max")
            ax.set_title(f"largest principal angle, {side}", fontsize=9, loc="left")
            ax.set_ylabel("degrees")
        right.sharey(left)
        _by_layer(shift, table, modules, "nss")
        shift.set_title("spectral shift", fontsize=9, loc="left")
        shift.set_ylabel("NSS")
        _curves(curves, measured, modules, sorted(set(table["layer"])))
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=max(1, len(modules)), frameon=False)
    return figure


def principal_figure(counts: pd.DataFrame) -> Figure:
    """Share of the changed weights that lie in a mask, by layer and by module (figures 5 and 7).

    From `count_masks`. Points are measured; dashes are chance, dots what change rates by magnitude predict.
    """
    alphas = sorted(set(counts["alpha"]))
    layered = principal(counts[counts["layer"].notna()], ["layer"])
    moduled = principal(counts, ["module"])
    modules = sorted(set(moduled["module"]))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 5.6), layout="constrained")
        axes = figure.subplots(2, len(_KINDS), sharey=True)
        for column, (kind, title) in enumerate(_KINDS.items()):
            for ax, table, key in ((axes[0][column], layered, "layer"), (axes[1][column], moduled, "module")):
                here = table[table["mask"] == kind]
                for number, alpha in enumerate(alphas):
                    _overlap(ax, here[here["alpha"] == alpha], key, modules, number, alpha)
                ax.set_xlabel(key)
            axes[0][column].xaxis.set_major_locator(whole_numbers())
            axes[0][column].set_title(title, fontsize=9, loc="left")
            axes[1][column].set_xticks(range(len(modules)), modules, rotation=30, ha="right")
        for ax in (axes[0][0], axes[1][0]):
            ax.set_ylabel("fraction of changed weights in the mask")
            ax.set_ylim(-0.02, 1.02)
        for style, label in (("--", "chance"), (":", "change rate by magnitude")):
            axes[0][0].plot([], [], color="0.2", ls=style, lw=1.2, label=label)
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return figure


def _by_layer(ax: Any, table: pd.DataFrame, modules: Sequence[str], column: str) -> None:
    for number, module in enumerate(modules):
        line = table[table["module"] == module]
        heights = line[column].where(line[column] > 0)
        ax.plot(line["layer"].astype(int), heights, label=module, **_look(number), ms=3, lw=1.1)
    ax.set_xlabel("layer")
    ax.xaxis.set_major_locator(whole_numbers())
    if (table[column] > 0).any():
        ax.set_yscale("log")


def _curves(ax: Any, measured: Sequence[Spectrum], modules: Sequence[str], layers: Sequence[int]) -> None:
    if not layers:
        return
    middle = layers[len(layers) // 2]
    for one in measured:
        where = one.where
        if where["layer"] != middle or one.start[0] == 0:
            continue
        look = _look(modules.index(str(where["module"])))
        index = np.arange(1, len(one.start) + 1)
        ax.plot(index, one.end / one.start[0], color=look["color"], ls="-", lw=1.1)
        ax.plot(index, one.start / one.start[0], color="0.7", ls=":", lw=1.3)
    ax.plot([], [], color="0.2", ls="-", lw=1.1, label="end (colour of its module)")
    ax.plot([], [], color="0.7", ls=":", lw=1.3, label="start")
    ax.set_title(f"singular values over the start's largest, layer {middle}", fontsize=9, loc="left")
    ax.set_xlabel("index")
    ax.set_xscale("log")
    ax.legend(frameon=False, fontsize=8)


def _overlap(
    ax: Any, table: pd.DataFrame, key: str, modules: Sequence[str], number: int, alpha: float
) -> None:
    at = table[key].astype(int) if key == "layer" else table[key].map(modules.index)
    ax.plot(
        at,
        table["overlap_update"],
        label=f"alpha {alpha:g}",
        **_look(number),
        ms=4,
        lw=1.1 * (key == "layer"),
    )
    own = COLOURS[number % len(COLOURS)]
    for name, style, colour in (("chance", "--", own), ("magnitude_matched", ":", "0.15")):
        heights = table[f"{name}_update"]
        if key == "layer" and len(table) > 1:
            ax.plot(at, heights, color=colour, ls=style, lw=1.3, zorder=3)
        else:
            ax.hlines(heights, at - 0.35, at + 0.35, color=colour, ls=style, lw=1.3)


def _look(number: int) -> dict[str, Any]:
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "ls": _LINES[number // len(COLOURS) % len(_LINES)],
    }
