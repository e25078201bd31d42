"""Contrasts: how the updates of runs overlap, by arms, layers and treatment.

Pairs within and between arms are taken over runs with *different* seeds. Two runs with one seed see the
same prompts in the same order and overlap far more; they are tabled apart.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd

from interventions.experiment import Experiment, PlannedRun, treatments
from scramble import __version__
from scramble.errors import SelectionError
from scramble.updates.ends import ends
from scramble.updates.ratios import pair_ratios, pool
from scramble.updates.tables import PAIR, count_pairs

METRICS = [
    "jaccard",
    "chance",
    "magnitude_matched",
    "jaccard_above_chance",
    "jaccard_above_magnitude_matched",
    "overlap_a",
    "overlap_b",
    "phi",
    "update_cosine",
    "update_rank_correlation",
    "sign_agreement",
]
UNTREATED, OUTSIDE = "untreated", "outside the layers"
RESAMPLES, ENOUGH_RUNS = 2000, 4


@dataclass(frozen=True)
class Contrasts:
    """Tables of an experiment.

    Attributes:
        pairs: every pair of runs in every (layer, module), raw and aligned.
        by_layer: contrasts (arm x arm) in every (layer, module): means over pairs, and intervals.
        by_treatment: contrasts pooled over the weights that each set of symmetries touched.
    """

    pairs: pd.DataFrame
    by_layer: pd.DataFrame
    by_treatment: pd.DataFrame

    def write(self, folder: Path) -> list[Path]:
        """Write the tables as CSV."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for field in fields(self):
            paths.append(folder / f"{field.name}.csv")
            getattr(self, field.name).to_csv(paths[-1], index=False)
        return paths

    @classmethod
    def read(cls, folder: Path) -> Contrasts:
        """What `write` wrote."""
        tables = {field.name: pd.read_csv(folder / f"{field.name}.csv") for field in fields(cls)}
        for table in tables.values():
            if "layer" in table:
                table["layer"] = table["layer"].astype("Int64")
        return cls(**tables)


def contrast(
    experiment: Experiment,
    runs: Sequence[PlannedRun],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Contrasts:
    """Compare all finished runs of an experiment.

    Raises:
        SelectionError: fewer than two finished runs.
        ManifestError: a rotation cannot be undone because the runs kept no float32 ends.
    """
    finished = [run for run in runs if run.folder is not None and run.status == "finished"]
    if len(finished) < 2:
        raise SelectionError(
            f"{experiment.name}: {len(finished)} finished run(s), a contrast needs two or more"
        )
    opened = [ends(run.start, _end(run), aligned=True) for run in finished]
    names = {one.name: run for one, run in zip(opened, finished, strict=True)}
    counts = count_pairs(opened, progress=progress)
    touched = treatments(sorted({run.start for run in runs if run.start.exists()}))
    counts["treatment"] = [
        touched.get(tensor, OUTSIDE if pd.isna(layer) else UNTREATED)
        for tensor, layer in zip(counts["tensor"], counts["layer"], strict=True)
    ]
    for side in "ab":
        counts[f"arm_{side}"] = [names[name].arm for name in counts[f"run_{side}"]]
        counts[f"seed_{side}"] = [names[name].seed for name in counts[f"run_{side}"]]
    counts["contrast"] = counts["arm_a"] + " x " + counts["arm_b"]
    labels = ["contrast", "treatment", "arm_a", "arm_b", "seed_a", "seed_b"]
    pairs = _ratios(counts, "layer-module", labels)
    by_layer = _aggregate(pairs, ["treatment", "layer", "module"])
    by_treatment = _aggregate(_ratios(counts, "model", labels), ["treatment"])
    return Contrasts(pairs, by_layer, by_treatment)


def contrast_once(
    experiment: Experiment,
    runs: Sequence[PlannedRun],
    folder: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Contrasts:
    """The tables in `folder` if this version computed them from these runs, else computed and written."""
    record = {run.name: run.folder.record.get("end") for run in runs if run.folder}
    stamp = json.dumps({"version": __version__, "runs": record}, indent=2) + "\n"
    made_from = folder / "runs.json"
    if made_from.exists() and made_from.read_text() == stamp:
        return Contrasts.read(folder)
    made_from.unlink(missing_ok=True)
    found = contrast(experiment, runs, progress)
    found.write(folder)
    made_from.write_text(stamp)
    return found


def _end(run: PlannedRun) -> Path:
    """The last checkpoint, in float32 where the recipe kept it."""
    assert run.folder is not None
    fp32 = run.folder.checkpoint(run.recipe.steps, fp32=True)
    return fp32 if fp32.exists() else run.folder.checkpoint(run.recipe.steps)


def _ratios(counts: pd.DataFrame, level: str, labels: list[str]) -> pd.DataFrame:
    pooled = pool(counts, level, [*PAIR, *labels])
    return pd.concat([pooled[labels], pair_ratios(pooled)], axis=1).drop(columns=["level", "tensor"])


def _aggregate(pairs: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Mean over the pairs of a contrast; intervals from resampled runs where both arms have enough."""
    rows = []
    for group, rest in pairs.groupby(["contrast", "same_seed", "frame", *keys], dropna=False, sort=False):
        row = dict(zip(["contrast", "same_seed", "frame", *keys], group, strict=True))
        row |= {"pairs": len(rest), "n": int(rest["n"].iloc[0])}
        row |= {name: rest[name].mean() for name in ("density_a", "density_b", *METRICS)}
        row["jaccard_low"], row["jaccard_high"] = _interval(rest)
        rows.append(row)
    table = pd.DataFrame(rows)
    if "layer" in table:
        table["layer"] = table["layer"].astype("Int64")
    return table


def _interval(pairs: pd.DataFrame) -> tuple[float, float]:
    """95 % interval of the mean Jaccard over resampled runs; NaN where an arm has fewer than four runs."""
    within = pairs["arm_a"].iloc[0] == pairs["arm_b"].iloc[0]
    if within:
        seeds = sorted({*pairs["seed_a"], *pairs["seed_b"]})
        sides = [seeds, seeds]
    else:
        sides = [sorted(set(pairs["seed_a"])), sorted(set(pairs["seed_b"]))]
    if min(map(len, sides)) < ENOUGH_RUNS or pairs["same_seed"].iloc[0]:
        return float("nan"), float("nan")
    values = np.full((len(sides[0]), len(sides[1])), np.nan)
    for a, b, value in pairs[["seed_a", "seed_b", "jaccard"]].itertuples(index=False):
        values[sides[0].index(a), sides[1].index(b)] = value
        if within:
            values[sides[1].index(b), sides[0].index(a)] = value
    rng, known = np.random.default_rng(0), ~np.isnan(values)
    filled, means = np.where(known, values, 0.0), []
    for _ in range(RESAMPLES):
        weights_a = np.bincount(rng.integers(0, len(sides[0]), len(sides[0])), minlength=len(sides[0]))
        drawn = rng.integers(0, len(sides[1]), len(sides[1]))
        weights_b = weights_a if within else np.bincount(drawn, minlength=len(sides[1]))
        weight = weights_a @ known @ weights_b
        if weight > 0:
            means.append(weights_a @ filled @ weights_b / weight)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
