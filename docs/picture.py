"""The picture of the README: the values of `assets/demo.csv`, which `make demo` wrote, as bars.

python docs/picture.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("svg")

import matplotlib.pyplot as plt
import pandas as pd

ASSETS = Path(__file__).parent / "assets"
PLACES = {
    "untreated": "untreated weights",
    "vo-rotation + head-permutation": "V and O of layer 20\n(rotated, heads permuted)",
    "vo-rotation": "V and O of layer 25\n(rotated)",
}
BARS = {
    ("base x base", "raw"): ("base and base", "#4c6a92"),
    ("base x scrambled", "raw"): ("base and scrambled, as stored", "#c8553d"),
    ("base x scrambled", "aligned"): ("base and scrambled, scramble undone", "#6fa287"),
}
WIDTH = 0.26


def draw(table: pd.DataFrame) -> plt.Figure:
    """Bars of Jaccard, with chance and rounding alone as marks and the wrong elements as an interval.

    Args:
        table: `by_treatment.csv` of the demo's report.
    """
    rows = table[~table["same_seed"]].set_index(["contrast", "frame", "treatment"])
    figure, axes = plt.subplots(figsize=(8.2, 3.6), layout="constrained")
    for number, (row, (label, color)) in enumerate(BARS.items()):
        for at, place in enumerate(PLACES):
            found, x = rows.loc[(*row, place)], at + (number - 1) * WIDTH
            first = at == 0
            axes.bar(x, found["jaccard"], 0.9 * WIDTH, color=color, label=label if first else None)
            top = max(found["jaccard"], 0 if row[1] == "raw" else found.fillna(0)["placebo_jaccard_most"])
            axes.text(x, top + 0.006, f"{found['jaccard']:.2f}", ha="center", fontsize=8)
            mark = {"color": "black", "linewidth": 1.4}
            half = 0.45 * WIDTH
            axes.hlines(
                found["rounding_only"],
                x - half,
                x + half,
                **mark,
                label="rounding alone" * (number + at == 0),
            )
            axes.hlines(
                found["chance"],
                x - half,
                x + half,
                **mark,
                linestyle=":",
                label="chance" * (number + at == 0),
            )
            if row[1] == "aligned" and place != "untreated":
                low, high = found["placebo_jaccard_least"], found["placebo_jaccard_most"]
                axes.bar(
                    x,
                    high - low,
                    0.9 * WIDTH,
                    low,
                    color="none",
                    edgecolor="black",
                    hatch="//////",
                    linewidth=0,
                    label="undone wrongly, 19 times" if at == 1 else None,
                )
    axes.set_xticks(range(len(PLACES)), PLACES.values())
    axes.set_ylabel("Jaccard overlap of two runs'\nupdates, different seeds")
    axes.set_ylim(0, 0.75)
    axes.legend(ncols=2, frameon=False, fontsize=8, loc="upper right")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure


if __name__ == "__main__":
    mpl.rcParams |= {"svg.hashsalt": "scramble", "svg.fonttype": "path", "axes.unicode_minus": False}
    draw(pd.read_csv(ASSETS / "demo.csv")).savefig(
        ASSETS / "demo.svg", metadata={"Date": None}, facecolor="white"
    )
