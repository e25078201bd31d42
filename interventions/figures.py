"""The collapse figure: overlap against layer, treated layers marked, baselines in the same axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from interventions.contrast import OUTSIDE, UNTREATED
from scramble.plots import COLOURS, MARKERS, STYLE, whole_numbers

_HEIGHTS = ["jaccard", "jaccard_high", "chance", "magnitude_matched"]
_TITLES = {"raw": "raw: as stored", "aligned": "aligned: scramble undone before comparing"}


def collapse(by_layer: pd.DataFrame, pairs: pd.DataFrame, modules: Sequence[str]) -> Figure:
    """One row of axes a module, raw left and aligned right, for one scrambled arm.

    Lines are contrasts between runs with different seeds, means over pairs; bars are intervals where runs
    were resampled, else every pair is a point. The dotted line of the same colour is what the runs' change
    rates by magnitude predict for that contrast, the grey dashed line is chance.
    """
    lines, points = (
        table[(table["treatment"] != OUTSIDE) & ~table["same_seed"].astype(bool)]
        for table in (by_layer, pairs)
    )
    contrasts = list(dict.fromkeys(lines["contrast"]))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 0.9 + 2.3 * len(modules)), layout="constrained")
        axes = figure.subplots(len(modules), 2, sharex=True, sharey="row", squeeze=False)
        for row, module in zip(axes, modules, strict=True):
            here = lines["module"] == module
            for ax, frame in zip(row, ("raw", "aligned"), strict=True):
                chosen = (points["module"] == module) & (points["frame"] == frame)
                _panel(ax, lines[here & (lines["frame"] == frame)], points[chosen], contrasts)
                ax.set_title(f"{module} - {_TITLES[frame]}", fontsize=9, loc="left")
            row[0].set_ylabel("Jaccard overlap")
            row[0].set_ylim(0, 1.05 * max(1e-3, lines.loc[here, _HEIGHTS].max().max()))
        for ax in axes[-1]:
            ax.set_xlabel("layer")
            ax.xaxis.set_major_locator(whole_numbers())
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(contrasts) + 1, frameon=False)
    return figure


def _panel(ax: Any, lines: pd.DataFrame, points: pd.DataFrame, contrasts: Sequence[str]) -> None:
    treated = sorted(lines.loc[lines["treatment"] != UNTREATED, "layer"].unique())
    for place, layer in enumerate(treated):
        label = "treated layer" if place == 0 else None
        ax.axvspan(layer - 0.5, layer + 0.5, color="#F0E442", alpha=0.45, lw=0, label=label)
    for contrast, colour, marker in zip(contrasts, COLOURS, MARKERS, strict=False):
        line = lines[lines["contrast"] == contrast].sort_values("layer")
        layers = line["layer"].astype(int)
        ax.plot(layers, line["jaccard"], color=colour, marker=marker, ms=3.5, lw=1.3, label=contrast)
        if line["jaccard_low"].notna().any():
            ax.vlines(layers, line["jaccard_low"], line["jaccard_high"], color=colour, lw=1)
        else:
            each = points[points["contrast"] == contrast]
            ax.plot(each["layer"].astype(int), each["jaccard"], ".", color=colour, ms=3, alpha=0.5)
        ax.plot(layers, line["magnitude_matched"], color=colour, ls=":", lw=1.3)
    ax.plot([], [], color="0.2", ls=":", lw=1.3, label="change rate by magnitude (same colour)")
    chance = lines.groupby("layer")["chance"].mean()
    ax.plot(chance.index.astype(int), chance, color="0.4", ls="--", lw=1.1, label="chance")


def rewards(curves: dict[str, list[float]]) -> Figure:
    """Mean reward a step of every run."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 2.6), layout="constrained")
        ax = figure.subplots()
        for place, (name, values) in enumerate(curves.items()):
            colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
            ax.plot(range(1, len(values) + 1), values, color=colour, marker=marker, ms=3, lw=1, label=name)
        ax.set_xlabel("step")
        ax.xaxis.set_major_locator(whole_numbers())
        ax.set_ylabel("mean reward")
        ax.set_ylim(0, 1)
        ax.legend(frameon=False, ncols=2, fontsize=8)
    return figure
