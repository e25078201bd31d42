"""The figures of a comparison: all runs in one overview, and few runs by layer and by module."""

from __future__ import annotations

from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from scramble.present.plots import COLOURS, MARKERS, STYLE, whole_numbers

LINES = len(COLOURS)  # runs that a figure with a line a run can show
# Column, title, logarithmic, columns of baselines.
_PANELS: tuple[tuple[str, str, bool, tuple[str, ...]], ...] = (
    ("sparsity", "sparsity (bf16)", False, ()),
    ("relative_update_norm", "||dW|| / ||W||", True, ()),
    ("nss", "spectral shift (NSS)", True, ()),
    ("angle_max", "largest principal angle, degrees", True, ()),
    ("angle_mean", "mean principal angle, degrees", True, ()),
    (
        "principal",
        "changed weights that are principal",
        False,
        ("principal_chance", "principal_magnitude_matched"),
    ),
)
_STYLES = {"principal_chance": ("--", "|", "chance"), "principal_magnitude_matched": (":", "x", "magnitude")}


def overview(runs: pd.DataFrame) -> Figure:
    """A row a run, a panel a figure; open marks are before training, or what baselines predict."""
    panels: list[tuple[str, str, bool, list[tuple[str, str, str]]]] = []
    scores = [name for name in runs if name.startswith("pass@") and name.endswith("_after")]
    for score in scores:
        before = [(score.replace("_after", "_before"), "o", "before")]
        panels.append((score, score.removesuffix("_after"), False, before))
    panels += [
        ("kl_to_start", "KL(start || policy), nats", True, []),
        ("update_norm", "||dW||", True, []),
        ("sparsity", "sparsity (bf16)", False, []),
        ("nss", "NSS", True, []),
    ]
    shares = [(name, *_STYLES[name][1:]) for name in _STYLES]
    panels.append(("principal", "principal, of changed weights", False, shares))
    panels = [panel for panel in panels if runs.get(panel[0], pd.Series(dtype=float)).notna().any()]
    rows = range(len(runs))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 1.5 + 0.24 * len(runs)), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for ax, (column, title, logarithmic, others) in zip(axes, panels, strict=True):
            ax.plot(runs[column], rows, "o", color=COLOURS[0], ms=5, zorder=3)
            for name, marker, label in (one for one in others if one[0] in runs):
                ax.plot(runs[name], rows, marker, color="0.25", mfc="none", ms=6, label=label)
            if logarithmic and _wide(runs[column]):
                ax.set_xscale("log")
            ax.margins(x=0.12)
            if others:
                ax.legend(frameon=False, fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
            ax.set_title(title, fontsize=9, pad=20)
            ax.grid(axis="y", color="0.9", lw=0.8)
        axes[0].set_yticks(rows, runs["name"])
        axes[0].invert_yaxis()
    return figure


def by_place(places: pd.DataFrame, key: str) -> Figure:
    """A line a run against layer, or marks against module; dashes are chance, dots change rates by magnitude.

    Matrices outside the layers are not drawn.
    """
    table = places[places["level"] == key].dropna(subset=[key, "nss"])
    modules = sorted(set(table["module"].dropna()))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 6), layout="constrained")
        for ax, panel in zip(figure.subplots(2, 3).flat, _PANELS, strict=True):
            _panel(ax, table, key, modules, *panel)
        ax = figure.axes[-1]
        for line, _, label in _STYLES.values():
            ax.plot([], [], color="0.3", ls=line, lw=1.2, label=f"expected by {label}")
        handles, labels = ax.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(6, len(labels)), frameon=False)
    return figure


def _panel(
    ax: Any,
    table: pd.DataFrame,
    key: str,
    modules: list[str],
    column: str,
    title: str,
    logarithmic: bool,
    baselines: tuple[str, ...],
) -> None:
    for number, name in enumerate(dict.fromkeys(table["name"])):
        line = table[table["name"] == name].sort_values(key)
        at = line[key].astype(int) if key == "layer" else line[key].map(modules.index)
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        width = 1.2 if key == "layer" else 0
        ax.plot(at, line[column], color=colour, marker=marker, ms=3.5, lw=width, label=name)
        for baseline in baselines:
            style = _STYLES[baseline][0]
            if key == "layer":
                ax.plot(at, line[baseline], color=colour, ls=style, lw=1)
            else:
                ax.hlines(line[baseline], at - 0.3, at + 0.3, color=colour, ls=style, lw=1)
    if logarithmic and _wide(table[column]):
        ax.set_yscale("log")
    elif logarithmic:
        ax.ticklabel_format(axis="y", scilimits=(-2, 3))
    ax.set_title(title, fontsize=9, loc="left")
    if key == "layer":
        ax.set_xlabel("layer")
        ax.xaxis.set_major_locator(whole_numbers())
    else:
        ax.set_xticks(range(len(modules)), modules, rotation=30, ha="right")


def _wide(values: pd.Series) -> bool:
    """Whether values span more than a factor of ten, all above zero, so that a logarithmic axis serves."""
    return bool(values.min() > 0 and values.max() > 10 * values.min())
