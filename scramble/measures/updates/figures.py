"""The figures of `scramble diff` and `scramble overlap`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from scramble.measures.updates.tables import decomposed, diff, mean_pairs, overlap
from scramble.present.plots import COLOURS, MARKERS, STYLE, whole_numbers

_BASELINES = ("chance", "rounding_only", "magnitude_matched", "row_column_matched")
_STYLES = ("--", ":", "-.", (0, (1, 1)))
_PARTS = ("rounding", "magnitude", "row_column", "coordinate")


def diff_figure(counts: pd.DataFrame) -> Figure:
    """Fraction of weights that changed, by layer for each module, and by module."""
    counts = _named(counts)
    layered = diff(counts, ["layer-module"]).dropna(subset=["layer"])
    moduled = diff(counts, ["module"])
    modules = sorted(set(moduled["module"]))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for number, module in enumerate(modules):
            line = layered[layered["module"] == module].sort_values("layer")
            if len(line):
                _line(left, line["layer"], 1 - line["sparsity"], number, module)
        left.set(xlabel="layer", ylabel="fraction of the weights that changed", ylim=(0, None))
        left.xaxis.set_major_locator(whole_numbers())
        right.bar(range(len(modules)), 1 - moduled.set_index("module")["sparsity"][modules], color=COLOURS[0])
        right.set_xticks(range(len(modules)), modules, rotation=30, ha="right")
        _legend(figure, left)
    return figure


def overlap_figure(counts: pd.DataFrame) -> Figure:
    """Jaccard overlap and its baselines by layer and by module, a column a frame; and pair by pair.

    From `count_pairs`. Lines are means over pairs of runs; pairs with one seed, which saw the same prompts,
    are in the matrix only, if there are others.
    """
    pairs = overlap(_inside(counts), ["model"])
    counts = _named(_two_seeds(counts))
    frames = list(dict.fromkeys(counts["frame"]))
    runs = list(dict.fromkeys([*counts["run_a"], *counts["run_b"]]))
    inside = _inside(counts)
    layered, moduled = (
        mean_pairs(overlap(part, [key])) for part, key in ((inside, "layer"), (counts, "module"))
    )
    several = len(runs) > 2
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5 * len(frames) + 3.2 * several, 5.8), layout="constrained")
        widths = [*[5.0] * len(frames), *[3.2] * several]
        axes = figure.subplots(2, len(widths), width_ratios=widths, squeeze=False)
        for column, frame in enumerate(frames):
            for ax, table, key in ((axes[0][column], layered, "layer"), (axes[1][column], moduled, "module")):
                _baselines(ax, table[table["frame"] == frame].dropna(subset=["jaccard"]), key)
            axes[0][column].set_title(frame, fontsize=9, loc="left")
        if several:
            for ax, frame in zip(axes[:, -1], frames, strict=False):
                _matrix(ax, pairs[(pairs["level"] == "model") & (pairs["frame"] == frame)], runs, frame)
            for ax in axes[len(frames) :, -1]:
                ax.set_axis_off()
        _legend(figure, axes[0][0])
    return figure


def decomposition_figure(counts: pd.DataFrame) -> Figure:
    """What the overlap above chance is made of, by layer and by module: parts as shares of the weights.

    From `count_pairs(..., row_column=True)`; means over pairs. A part below zero is drawn below zero.
    """
    counts = _named(_two_seeds(counts))
    frames = list(dict.fromkeys(counts["frame"]))
    inside = _inside(counts)
    tables = [
        (mean_pairs(decomposed(inside, ["layer"])), "layer"),
        (mean_pairs(decomposed(counts, ["module"])), "module"),
    ]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5 * len(frames), 5.8), layout="constrained")
        axes = figure.subplots(2, len(frames), sharey="row", squeeze=False)
        for row, (table, key) in zip(axes, tables, strict=True):
            for ax, frame in zip(row, frames, strict=True):
                _stack(ax, table[table["frame"] == frame], key)
                ax.set_title(frame, fontsize=9, loc="left")
            row[0].set_ylabel("weights above chance / all weights")
        _legend(figure, axes[0][0])
    return figure


def _named(counts: pd.DataFrame) -> pd.DataFrame:
    """Modules with their tower's name in front, where there are several: a line or a bar each."""
    if "tower" not in counts:
        return counts
    front = counts["tower"].map(lambda tower: "" if pd.isna(tower) else f"{tower}: ")
    return counts.assign(module=front + counts["module"])


def _inside(counts: pd.DataFrame) -> pd.DataFrame:
    """Weights in the layers, of the largest tower where there are several; all, where there are none."""
    inside = counts[counts["layer"].notna()]
    if "tower" in inside and len(inside):
        largest = inside.groupby("tower", dropna=False)["n"].sum().idxmax()
        inside = inside[inside["tower"].isna() if pd.isna(largest) else inside["tower"] == largest]
    return inside if len(inside) else counts


def _two_seeds(counts: pd.DataFrame) -> pd.DataFrame:
    same = counts["same_seed"].fillna(False).astype(bool)
    return counts if same.all() else counts[~same]


def _stack(ax: Any, table: pd.DataFrame, key: str) -> None:
    table = table.sort_values(key)
    places = table["layer"].astype(int) if key == "layer" else pd.Series(range(len(table)), table.index)
    up, down = np.zeros(len(table)), np.zeros(len(table))
    for number, part in enumerate(_PARTS):
        share = (table[part] / table["n"]).fillna(0).to_numpy()
        ax.bar(
            places,
            share,
            bottom=np.where(share >= 0, up, down),
            color=COLOURS[number],
            label=part.replace("_", " "),
        )
        up, down = up + np.maximum(share, 0), down + np.minimum(share, 0)
    _axis(ax, table, key)


def _baselines(ax: Any, table: pd.DataFrame, key: str) -> None:
    table = table.sort_values(key)
    places = table["layer"].astype(int) if key == "layer" else pd.Series(range(len(table)), table.index)
    ax.plot(
        places,
        table["jaccard"],
        color=COLOURS[0],
        marker="o",
        ms=3.5,
        lw=1.4 if key == "layer" else 0,
        label="measured",
    )
    for number, (name, style) in enumerate(zip(_BASELINES, _STYLES, strict=True), 1):
        if name in table and table[name].notna().any():
            mark = (
                {"ls": style, "lw": 2.6 - 0.6 * number}
                if key == "layer"
                else {"ls": "", "marker": MARKERS[number], "ms": 6.5 - number}
            )
            ax.plot(places, table[name], color=COLOURS[number], label=name.replace("_", " "), **mark)
    ax.set_ylim(0, None)
    ax.set_ylabel("Jaccard overlap")
    _axis(ax, table, key)


def _axis(ax: Any, table: pd.DataFrame, key: str) -> None:
    if key == "module":
        ax.set_xticks(range(len(table)), table["module"], rotation=30, ha="right")
    else:
        ax.xaxis.set_major_locator(whole_numbers())
        ax.set_xlabel("layer")


def _matrix(ax: Any, pairs: pd.DataFrame, runs: Sequence[str], frame: str) -> None:
    """Runs are numbered in the order that they were given in."""
    values = np.full((len(runs), len(runs)), np.nan)
    for a, b, value in pairs[["run_a", "run_b", "jaccard"]].itertuples(index=False):
        values[runs.index(a), runs.index(b)] = values[runs.index(b), runs.index(a)] = value
    ax.imshow(values, vmin=0, vmax=1, cmap="cividis")
    for (a, b), value in np.ndenumerate(values):
        if np.isfinite(value):
            ax.text(
                b, a, f"{value:.2f}", ha="center", va="center", fontsize=7, color="w" if value < 0.6 else "k"
            )
    numbers = [str(number + 1) for number in range(len(runs))]
    ax.set_xticks(range(len(runs)), numbers)
    ax.set_yticks(range(len(runs)), numbers)
    ax.set_title(f"Jaccard by run, {frame}", fontsize=9, loc="left")


def _line(ax: Any, x: Any, y: Any, number: int, label: str) -> None:
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    style = "-" if number < len(COLOURS) else "--"
    ax.plot(x.astype(int), y, color=colour, marker=marker, ms=3, lw=1.1, ls=style, label=label)


def _legend(figure: Figure, ax: Any) -> None:
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=min(5, max(1, len(labels))), frameon=False
    )
