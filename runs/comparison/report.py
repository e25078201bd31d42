"""The report of a comparison: one self-contained page, its figures and its tables beside it."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from scramble.files import write_whole
from scramble.present.page import render
from scramble.present.plots import svg, write_both
from scramble.runs.comparison import figures
from scramble.runs.comparison.compare import Comparison

_PAIRS = [
    "run_a",
    "run_b",
    "same_seed",
    "density_a",
    "density_b",
    "jaccard",
    "chance",
    "rounding_only",
    "magnitude_matched",
]
_PAIRS += ["phi", "update_cosine", "sign_agreement"]
_CLOSE = 1.05  # norms of updates that are at most this factor apart count as matched


def write_report(found: Comparison, folder: Path, title: str) -> Path:
    """Write `report.html`, figures as SVG and PNG, and tables as CSV into a folder; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    found.write(folder)
    drawn = {"overview": figures.overview(found.runs)}
    if len(found.runs) <= figures.LINES:
        drawn |= {f"by-{key}": figures.by_place(found.places, key) for key in ("layer", "module")}
    for name, figure in drawn.items():
        write_both(figure, folder / name)
    page = folder / "report.html"
    names = list(found.runs)
    learned = names[: names.index("end")]
    pairs, modules = found.pairs, found.places[found.places["level"] == "module"]
    write_whole(
        page,
        render(
            "scramble.runs.comparison",
            "report.html.j2",
            title=title,
            lines=matched(found.runs),
            toolchains=found.toolchains,
            few=len(found.runs) <= figures.LINES,
            learned=_rows(found.runs[learned]),
            weights=_rows(found.runs[["name", *(name for name in found.runs if name not in learned)]]),
            pairs=_rows(pairs[[name for name in _PAIRS if name in pairs]]),
            modules=_rows(
                modules[["name", *(name for name in modules if name not in ("name", "level", "layer"))]]
            ),
            figures={name: svg(figure) for name, figure in drawn.items()},
        ),
    )
    return page


def matched(runs: pd.DataFrame) -> list[str]:
    """What several runs have in common and what they do not: start, task, steps, norm of the update."""
    if len(runs) < 2:
        return []
    starts, steps, norms = runs["start"].nunique(), runs["steps"], runs["update_norm"]
    pairs = list(combinations(runs.to_dict("records"), 2)) if len(runs) <= figures.LINES else []
    lines = [
        "All runs begin at one checkpoint."
        if starts == 1
        else f"The runs begin at {starts} different checkpoints: compare those of one start."
    ]
    if steps.nunique() == 1:
        lines.append(f"Steps are matched: {steps.iloc[0]} each.")
    else:
        same = [pair for pair in pairs if pair[0]["steps"] == pair[1]["steps"]]
        lines.append(f"Steps are not matched: {steps.min()} to {steps.max()}{_but(same)}.")
    for column, what in (("task", "tasks"), ("held_out", "held-out prompts")):
        if runs[column].nunique(dropna=False) > 1:
            lines.append(f"They have different {what}: scores are not of the same questions.")
    shortest, longest = norms.min(), norms.max()
    span = f"||dW|| is {shortest:.4g}" + ("" if shortest == longest else f" to {longest:.4g}")
    close = _close(shortest, longest)
    near = [] if close else [pair for pair in pairs if _close(*(one["update_norm"] for one in pair))]
    lines.append(f"Norms of the update are {'' if close else 'not '}matched within 5 %: {span}{_but(near)}.")
    if runs["end"].nunique() > 1:
        lines.append("Some ends are float32 and some bf16, whose rounding changes ||dW||, NSS and angles.")
    return lines


def _close(one: float, other: float) -> bool:
    return min(one, other) > 0 and max(one, other) <= _CLOSE * min(one, other)


def _but(pairs: list[tuple[Any, Any]]) -> str:
    """The pairs of runs that are matched although all together are not."""
    names = [f"{one['name']} and {other['name']}" for one, other in pairs]
    return f"; matched are {', '.join(names)}" if names else ""


def _rows(table: pd.DataFrame) -> list[dict[str, str]]:
    shown = [name for name in table if table[name].notna().any()]
    return [{name: _cell(value) for name, value in row.items()} for row in table[shown].to_dict("records")]


def _cell(value: Any) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
