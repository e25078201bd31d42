"""Overlap and direction against layer: treated layers marked, baselines and placebos in the same axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from scramble.interventions.experiment import OUTSIDE, UNTREATED
from scramble.present.plots import COLOURS, MARKERS, STYLE, whole_numbers


@dataclass(frozen=True)
class _Shown:
    """A figure's columns: what is drawn, what may stand higher, and what predicts it."""

    column: str
    label: str
    placebo: str
    heights: tuple[str, ...]
    baselines: tuple[str, ...] = ()
    interval: bool = False


_OVERLAP = _Shown(
    "jaccard",
    "Jaccard overlap",
    "placebo_jaccard",
    ("jaccard_high", "chance", "rounding_only", "magnitude_matched", "placebo_jaccard_most"),
    ("rounding_only", "magnitude_matched"),
    interval=True,
)
_DIRECTION = _Shown(
    "update_cosine", "cosine of updates", "placebo_update_cosine", ("placebo_update_cosine_most",)
)
_TITLES = {"raw": "raw: as stored", "aligned": "aligned: scramble undone before comparing"}


def overlap(by_layer: pd.DataFrame, pairs: pd.DataFrame, modules: Sequence[str]) -> Figure:
    """Jaccard overlap: one row of axes a module, raw left and aligned right, for one scrambled arm.

    Lines are contrasts between runs with different seeds, means over pairs; bars are intervals where runs
    were resampled, else every pair is a point. The dotted line of the same colour is what rounding alone
    predicts for that contrast (change rates by magnitude, where ends are bf16), the grey dashed line is
    chance, grey bars span what wrong alignments give.
    """
    return _figure(by_layer, pairs, modules, _OVERLAP)


def direction(by_layer: pd.DataFrame, pairs: pd.DataFrame, modules: Sequence[str]) -> Figure:
    """Cosines of the updates, in the same arrangement. No baseline predicts them; wrong alignments do."""
    return _figure(by_layer, pairs, modules, _DIRECTION)


def _figure(by_layer: pd.DataFrame, pairs: pd.DataFrame, modules: Sequence[str], shown: _Shown) -> Figure:
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
                _panel(ax, lines[here & (lines["frame"] == frame)], points[chosen], contrasts, shown)
                ax.set_title(f"{module} - {_TITLES[frame]}", fontsize=9, loc="left")
            row[0].set_ylabel(shown.label)
            top = max(1e-3, lines.loc[here, [shown.column, *shown.heights]].max().max())
            lowest = min(0.0, float(lines.loc[here, [shown.column, f"{shown.placebo}_least"]].min().min()))
            row[0].set_ylim(1.05 * lowest, 1.05 * top)
        for ax in axes[-1]:
            ax.set_xlabel("layer")
            ax.xaxis.set_major_locator(whole_numbers())
        known: dict[str, Any] = {}
        for ax in axes[0]:
            handles, labels = ax.get_legend_handles_labels()
            known |= dict(zip(labels, handles, strict=True))
        figure.legend(known.values(), known.keys(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def _panel(
    ax: Any, lines: pd.DataFrame, points: pd.DataFrame, contrasts: Sequence[str], shown: _Shown
) -> None:
    treated = sorted(lines.loc[lines["treatment"] != UNTREATED, "layer"].unique())
    for number, layer in enumerate(treated):
        label = "treated layer" if number == 0 else None
        ax.axvspan(layer - 0.5, layer + 0.5, color="#F0E442", alpha=0.45, lw=0, label=label)
    for contrast, colour, marker in zip(contrasts, COLOURS, MARKERS, strict=False):
        line = lines[lines["contrast"] == contrast].sort_values("layer")
        layers = line["layer"].astype(int)
        ax.plot(layers, line[shown.column], color=colour, marker=marker, ms=3.5, lw=1.3, label=contrast)
        if shown.interval and line["jaccard_low"].notna().any():
            ax.vlines(layers, line["jaccard_low"], line["jaccard_high"], color=colour, lw=1)
        else:
            each = points[points["contrast"] == contrast]
            ax.plot(each["layer"].astype(int), each[shown.column], ".", color=colour, ms=3, alpha=0.5)
        if shown.baselines:
            baseline = line[shown.baselines[0]].fillna(line[shown.baselines[1]])
            ax.plot(layers, baseline, color=colour, ls=":", lw=1.3)
    wrong = lines[lines["placebos"] > 0]
    if len(wrong):
        least, most = wrong[f"{shown.placebo}_least"], wrong[f"{shown.placebo}_most"]
        at = wrong["layer"].astype(int)
        ax.vlines(at, least, most, color="0.25", lw=5, alpha=0.6, label="undone by wrong elements")
        ax.plot(at, wrong[shown.placebo], "_", color="0.25", ms=9)
    if shown.baselines:
        ax.plot([], [], color="0.2", ls=":", lw=1.3, label="rounding alone (same colour)")
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
