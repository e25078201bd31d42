"""One self-contained HTML page: figures, tables, verdict, and how the runs were made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from scramble.files import write_whole
from scramble.interventions import figures
from scramble.interventions.contrast import Contrasts
from scramble.interventions.experiment import OUTSIDE, UNTREATED, Experiment, PlannedRun
from scramble.interventions.regime import described
from scramble.interventions.verdict import limits, verdict
from scramble.present.page import render
from scramble.present.plots import svg, write_both
from scramble.transforms.record import find_record

_SHOWN = ["treatment", "contrast", "frame", "pairs", "jaccard", "jaccard_low", "jaccard_high", "chance"]
_SHOWN += ["rounding_only", "placebo_jaccard", "placebo_jaccard_least", "placebo_jaccard_most"]
_SHOWN += ["magnitude_matched", "phi", "update_cosine"]
_SHOWN += ["placebo_update_cosine", "placebo_update_cosine_least", "placebo_update_cosine_most"]
_SHOWN += ["update_rank_correlation"]


def write_report(
    experiment: Experiment, runs: Sequence[PlannedRun], contrasts: Contrasts, folder: Path
) -> tuple[Path, list[str]]:
    """Write `report.html`, and its figures as SVG and PNG; returns the page and its verdict."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = _draw(contrasts)
    curves = {run.name: _rewards(run.folder.metrics) for run in runs if run.folder}
    curves = {name: rewards for name, rewards in curves.items() if rewards}
    if curves:
        drawn["rewards"] = figures.rewards(curves)
    for name, figure in drawn.items():
        write_both(figure, folder / name)
    table = contrasts.by_treatment
    different = ~table["same_seed"].astype(bool)
    lines = verdict(table, experiment.base_arm, experiment.scrambled_arms)
    page = render(
        "scramble.interventions",
        "report.html.j2",
        title=experiment.name,
        experiment=experiment,
        verdict=lines,
        limits=limits(experiment),
        toolchains=contrasts.toolchains,
        described=described(contrasts.regime),
        regime=_regime(contrasts.regime),
        figures={name: svg(figure) for name, figure in drawn.items()},
        arms=list(dict.fromkeys(table["arm"])),
        different={arm: _rows(rows) for arm, rows in table[different].groupby("arm")},
        same={arm: _rows(rows) for arm, rows in table[~different].groupby("arm")},
        certificates=_certificates(runs),
        runs=[_run_row(run) for run in runs],
        enough=table["jaccard_low"].notna().any(),
    )
    path = folder / "report.html"
    write_whole(path, page)
    return path, lines


def _draw(contrasts: Contrasts) -> dict[str, Figure]:
    """For each arm overlap and direction in the modules that it treated, and overlap in the others."""
    drawn: dict[str, Figure] = {}
    for arm, layered in contrasts.by_layer.groupby("arm", sort=False):
        pairs = contrasts.pairs[contrasts.pairs["arm"] == arm]
        layered = layered[layered["treatment"] != OUTSIDE]
        treated = layered[layered["treatment"] != UNTREATED]
        modules = [name for name in sorted(set(layered["module"])) if "norm" not in name]
        touched = [name for name in _most_treated_first(treated) if name in modules]
        others = [name for name in modules if name not in touched]
        drawn[f"overlap-{arm}"] = figures.overlap(layered, pairs, touched or modules)
        if touched:
            drawn[f"direction-{arm}"] = figures.direction(layered, pairs, touched)
        if touched and others:
            drawn[f"other-modules-{arm}"] = figures.overlap(layered, pairs, others)
    return drawn


def _most_treated_first(treated: pd.DataFrame) -> list[str]:
    counts = treated.groupby("module")["layer"].nunique()
    return sorted(counts.index, key=lambda name: (-int(counts[name]), name))


def _rows(table: pd.DataFrame) -> list[dict[str, str]]:
    """Untreated weights first, those outside the layers last; one row where raw and aligned are equal."""
    shown = [name for name in _SHOWN if name in table and not table[name].isna().all()]
    aligned = table["frame"] == "aligned"
    treated = ~table["treatment"].isin([UNTREATED, OUTSIDE])
    ordered = table[treated | ~aligned].assign(frame=table["frame"].where(treated, "both"))
    place = {UNTREATED: 0, OUTSIDE: 2}
    ordered = ordered.sort_values(
        ["treatment", "frame"],
        key=lambda column: (
            column.map(lambda name: (place.get(name, 1), name))
            if column.name == "treatment"
            else column == "aligned"
        ),
        kind="stable",
    )
    return [{name: _cell(value) for name, value in row.items()} for row in ordered[shown].to_dict("records")]


def _place(layer: int | None) -> str:
    return "the whole model" if layer is None else f"layer {layer}"


def _certificates(runs: Sequence[PlannedRun]) -> list[dict[str, Any]]:
    rows = []
    for arm, start in dict.fromkeys((run.arm, run.start) for run in runs):
        record = find_record(start)
        for done in record.manifest.scrambles if record else ():
            steps = ", ".join(
                f"{step.symmetry} in {_place(step.layer)} ({step.group})" for step in done.steps
            )
            shown = done.equivalence.model_dump() if done.equivalence else {"verdict": "not verified"}
            rows.append({"arm": arm, "scramble": steps} | shown)
    return rows


def _run_row(run: PlannedRun) -> dict[str, Any]:
    metrics = run.folder.metrics if run.folder else []
    record = run.folder.record if run.folder else None
    return {
        "run": run.name,
        "status": run.status,
        "steps": len(metrics),
        "seconds": record.seconds if record and record.seconds is not None else "-",
        "threads": record.hardware.get("threads", "-") if record else "-",
        "hash of the rollouts of step 1": str(metrics[0].get("rollouts", "-"))[:12] if metrics else "-",
        "end": str(record.end.hash)[:12] if record and record.end else "-",
    }


def _rewards(rows: list[dict[str, Any]]) -> list[float]:
    """Of the steps that sampled; none for algorithms without a reward."""
    return [row["reward"] for row in rows if "reward" in row]


def _regime(regime: pd.DataFrame) -> list[dict[str, str]]:
    """A row a run: values with their intervals in one cell."""
    rows = []
    for run in regime.to_dict("records"):
        row = {name: _shown(run[name]) for name in ("arm", "seed", "updates", "learning_rate")}
        for name in ("pass@1_before", "pass@1_after", "gain"):
            low, high = (run[f"{name}_{end}"] for end in ("low", "high"))
            row[name] = _shown(run[name]) + ("" if pd.isna(low) else f" ({low:.2f} to {high:.2f})")
        rest = ("reward_first", "reward_last", "kl_to_start", "density", "sparsity", "update_norm")
        rows.append(row | {name: _shown(run[name]) for name in rest})
    return rows


def _cell(value: Any) -> str:
    """Three decimals in every row, so that a column can be compared by eye."""
    return f"{value:.3f}" if isinstance(value, float) and not pd.isna(value) else _shown(value)


def _shown(value: Any) -> str:
    if value is None or pd.isna(value):
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
