"""The figures of `scramble gates` and `scramble curvature`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from scramble.measures.curvature.correlations import correlations
from scramble.measures.curvature.gates import gates
from scramble.present.plots import COLOURS, MARKERS, STYLE, whole_numbers

_DIAGONALS = {
    "empirical_fisher": "diagonal of the empirical Fisher",
    "fisher": "diagonal of the Fisher information",
    "hessian": "diagonal of the Hessian, its size",
}
_PROXIES = {
    "rho_principal": "principal score",
    "rho_principal_given_magnitude": "principal score given |W|",
    "rho_magnitude": "|W|",
    "rho_update": "|update|",
}


def gates_figure(counts: pd.DataFrame, leashes: pd.DataFrame) -> Figure:
    """`sqrt(2 K)` beside the Fisher norm, the update's norms, and what bf16 hides by module.

    From `norms` and `leash`. The horizontal axis is the step where the runs are steps of one run, else the
    number of the run in the order given.
    """
    whole = gates(counts, leashes, ["model"])
    moduled = gates(counts, leashes, ["module"])
    at, label, line = _axis(whole)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 3.8), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        reverse = np.sqrt(2 * whole["kl_reverse"].clip(lower=0))
        for ax, number, heights, name in (
            (left, 0, whole["kl_norm"], "root of 2 KL(start || end)"),
            (left, 1, reverse, "root of 2 KL(end || start)"),
            (left, 2, whole["fisher_norm"], "Fisher norm of the update"),
            (middle, 0, whole["update_norm"], "Frobenius norm"),
            (middle, 1, whole["spectral_norm"], "largest spectral norm"),
        ):
            look = {"color": COLOURS[number], "marker": MARKERS[number], "ls": line}
            ax.plot(at, heights, label=name, **look, ms=5, lw=1.1)
        left.set_title("predictions", fontsize=9, loc="left")
        middle.set_title("update of the matrices", fontsize=9, loc="left")
        for ax in (left, middle):
            ax.set_xlabel(label)
            ax.xaxis.set_major_locator(whole_numbers())
            ax.set_ylim(bottom=0)
            ax.margins(x=0.1)
            ax.legend(frameon=False, fontsize=8)
        _hidden(right, moduled)
    return figure


def curvature_figure(figures: pd.DataFrame) -> Figure:
    """Rank correlations of each curvature diagonal, by layer and by module, from `matrix_figures`."""
    layered = correlations(figures[figures["layer"].notna()], ["layer"])
    moduled = correlations(figures, ["module"])
    kinds, modules = list(dict.fromkeys(figures["curvature"])), sorted(set(moduled["module"]))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 1 + 2.7 * len(kinds)), layout="constrained")
        axes = figure.subplots(len(kinds), 2, sharey=True, squeeze=False)
        for kind, (left, right) in zip(kinds, axes, strict=True):
            here, there = (table[table["curvature"] == kind] for table in (layered, moduled))
            for number, (column, name) in enumerate(_PROXIES.items()):
                look = {"color": COLOURS[number], "marker": MARKERS[number], "ms": 4, "label": name}
                left.plot(here["layer"].astype(int), here[column], **look, lw=1.1)
                right.plot(there["module"].map(modules.index), there[column], **look, ls="")
            for ax in (left, right):
                ax.axhline(0, color="0.7", lw=0.8, zorder=0)
                ax.set_title(_DIAGONALS[kind], fontsize=9, loc="left")
            left.set_ylabel("Spearman correlation")
            left.set_xlabel("layer")
            left.xaxis.set_major_locator(whole_numbers())
            right.set_xticks(range(len(modules)), modules, rotation=30, ha="right")
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return figure


def _hidden(ax: Any, moduled: pd.DataFrame) -> None:
    modules = sorted(set(moduled["module"]))
    known = moduled[moduled["hidden"].notna()]
    count = known["run"].nunique()
    for place, (run, rows) in enumerate(known.groupby("run", sort=False)):
        number = int(run) - 1
        look = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)], "ls": ""}
        at = rows["module"].map(modules.index) + 0.4 * (place - (count - 1) / 2) / max(count, 1)
        ax.plot(at, rows["hidden"], **look, ms=5, label=f"run {run}, of the moved weights")
        ax.plot(at, rows["hidden_square"], **look, ms=5, mfc="none", label=f"run {run}, of the squared norm")
    ax.set_xticks(range(len(modules)), modules, rotation=30, ha="right")
    ax.set_ylim(-0.02, max(1.02, 1.05 * known["hidden_square"].max() if count else 0))
    ax.set_title("fraction of the update that bf16 hides", fontsize=9, loc="left")
    if not count:
        ax.text(0.5, 0.5, "bf16 ends: not known", transform=ax.transAxes, ha="center")
    elif count <= 4:
        ax.legend(frameon=False, fontsize=8)


def _axis(whole: pd.DataFrame) -> tuple[Sequence[int], str, str]:
    """Positions, their label, and the style of the line between them."""
    steps = whole["step"]
    if steps.notna().all() and steps.is_unique and len(steps) > 1:
        return [int(step) for step in steps], "step", "-"
    return [int(run) for run in whole["run"]], "run, in the order given", ""
