"""Contrasts: how the updates of runs overlap, by arms, layers and treatment.

Pairs within and between arms are taken over runs with *different* seeds. Two runs with one seed see the
same prompts in the same order and overlap far more; they are tabled apart.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from scramble._version import __version__
from scramble.checkpoints import locate
from scramble.errors import SelectionError
from scramble.files import whole, write_whole
from scramble.interventions.experiment import OUTSIDE, UNTREATED, Experiment, PlannedRun, treatment
from scramble.interventions.regime import regime_of
from scramble.measures.pairs.ends import PLACEBO, ends
from scramble.measures.pairs.pooling import pool
from scramble.measures.updates.ratios import pair_ratios
from scramble.measures.updates.resampling import resampled
from scramble.measures.updates.tables import PAIR, count_pairs
from scramble.runs.records.toolchains import mixed
from scramble.transforms.record import find_record

METRICS = [
    "jaccard",
    "chance",
    "rounding_only",
    "magnitude_matched",
    "jaccard_above_chance",
    "jaccard_above_rounding_only",
    "jaccard_above_magnitude_matched",
    "overlap_a",
    "overlap_b",
    "phi",
    "update_cosine",
    "update_rank_correlation",
    "sign_agreement",
    "above_chance_errors",
]
PLACEBO_METRICS = ["jaccard", "rounding_only", "update_cosine", "update_rank_correlation"]
TABLES = ("pairs", "by_layer", "by_treatment", "regime")


@dataclass(frozen=True)
class Contrasts:
    """Tables of an experiment. Each scrambled arm is contrasted with the base arm by itself.

    Attributes:
        pairs: every pair of runs of an arm and the base, in every (layer, module), raw and aligned.
        by_layer: contrasts in every (layer, module): means over pairs, and intervals.
        by_treatment: contrasts pooled over the weights that each set of symmetries touched in the arm.
        regime: a row a run: what it learned, and how far its weights went (see `interventions.regime`).
        toolchains: which packages and hardware differ between the runs; None if all are the same.

    Aligned rows of two arms have `placebo_*`: the same figures where the scramble was undone by wrong
    elements of its groups, their mean, least and most over `placebos` draws.
    """

    pairs: pd.DataFrame
    by_layer: pd.DataFrame
    by_treatment: pd.DataFrame
    regime: pd.DataFrame
    toolchains: str | None = None

    def write(self, folder: Path) -> None:
        """Write the tables as CSV."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in TABLES:
            with whole(folder / f"{name}.csv") as partial:
                getattr(self, name).to_csv(partial, index=False)

    @classmethod
    def read(cls, folder: Path) -> Contrasts:
        """The tables that `write` wrote."""
        tables = {name: pd.read_csv(folder / f"{name}.csv") for name in TABLES}
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
    finished = [run for run in runs if run.status == "finished"]
    if len(finished) < 2:
        raise SelectionError(
            f"{experiment.name}: {len(finished)} finished run(s), a contrast needs two or more"
        )
    base = locate(experiment.base)
    record = find_record(base)
    origin = None if record and record.is_scrambled else base
    opened = [
        ends(run.start, run.done.end, aligned=True, base=origin, placebos=experiment.placebos)
        for run in finished
    ]
    counts = count_pairs(opened, progress=progress)
    names = {one.name: run for one, run in zip(opened, finished, strict=True)}
    for side in "ab":
        counts[f"arm_{side}"] = [names[name].arm for name in counts[f"run_{side}"]]
        counts[f"seed_{side}"] = [names[name].seed for name in counts[f"run_{side}"]]
    counts["same_seed"] = counts["seed_a"] == counts["seed_b"]
    counts["contrast"] = counts["arm_a"] + " x " + counts["arm_b"]
    starts = {run.arm: run.start for run in finished}
    regime = [regime_of(run, one.name, counts) for one, run in zip(opened, finished, strict=True)]
    tables: dict[str, list[pd.DataFrame]] = {name: [] for name in ("pairs", "by_layer", "by_treatment")}
    for arm in [name for name in experiment.scrambled_arms if name in starts] or [experiment.base_arm]:
        both = [experiment.base_arm, arm]
        part = counts[counts["arm_a"].isin(both) & counts["arm_b"].isin(both)]
        touched = treatment(starts[arm], base) if arm != experiment.base_arm else {}
        part = part.assign(arm=arm, treatment=_treatments(part, touched))
        labels = ["arm", "contrast", "treatment", "arm_a", "arm_b", "seed_a", "seed_b"]
        pairs, whole = _ratios(part, "layer-module", labels), _ratios(part, "model", labels)
        tables["pairs"].append(pairs[~_wrong(pairs)])
        tables["by_layer"].append(_aggregate(pairs, ["treatment", "layer", "module"]))
        tables["by_treatment"].append(_aggregate(whole, ["treatment"]))
    found = {name: pd.concat(parts, ignore_index=True) for name, parts in tables.items()}
    return Contrasts(**found, regime=pd.DataFrame(regime), toolchains=_toolchains(finished))


def _toolchains(finished: Sequence[PlannedRun]) -> str | None:
    return mixed({run.name: run.done.finished for run in finished})


def _treatments(counts: pd.DataFrame, touched: Mapping[str, str]) -> list[str]:
    """A label for each (layer, module): what acted on any tensor of it (a bias may stay where it is)."""
    places = list(zip(counts["layer"], counts["module"], counts["tensor"], strict=True))
    acted = {(layer, module): touched[tensor] for layer, module, tensor in places if tensor in touched}
    return [
        acted.get((layer, module), OUTSIDE if pd.isna(layer) else UNTREATED) for layer, module, _ in places
    ]


def contrast_once(
    experiment: Experiment,
    runs: Sequence[PlannedRun],
    folder: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Contrasts:
    """The tables in `folder` if this version computed them from these runs, else computed and written."""
    finished = [run for run in runs if run.status == "finished"]
    record = {
        str(run.done.end): run.done.finished.model_dump(mode="json", include={"end", "evaluation"})
        for run in finished
    }
    made = {"version": __version__, "placebos": experiment.placebos, "runs": record}
    stamp = json.dumps(made, indent=2) + "\n"
    made_from = folder / "runs.json"
    if made_from.exists() and made_from.read_text() == stamp:
        try:
            return replace(Contrasts.read(folder), toolchains=_toolchains(finished))
        except FileNotFoundError:
            pass
    made_from.unlink(missing_ok=True)
    found = contrast(experiment, runs, progress)
    found.write(folder)
    write_whole(made_from, stamp)
    return found


def _ratios(counts: pd.DataFrame, level: str, labels: list[str]) -> pd.DataFrame:
    pooled = pool(counts, level, [*PAIR, *labels])
    errors = np.sqrt(pooled["chance_variance"].where(pooled["chance_variance"] > 0))
    found = pd.concat([pooled[labels], pair_ratios(pooled)], axis=1).drop(columns=["level", "tensor"])
    return found.assign(above_chance_errors=(pooled["both"] - pooled["chance"]) / errors)


def _wrong(pairs: pd.DataFrame) -> pd.Series:
    return pairs["frame"].str.startswith(PLACEBO)


def _aggregate(pairs: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Mean over the pairs of a contrast; intervals from resampled runs where both arms have enough.

    Aligned rows of two arms say too what the wrong alignments gave.
    """
    rows = []
    keys = ["arm", "contrast", "same_seed", "frame", *keys]
    for group, rest in pairs[~_wrong(pairs)].groupby(keys, dropna=False, sort=False):
        row = dict(zip(keys, group, strict=True))
        row |= {"pairs": len(rest), "n": int(rest["n"].iloc[0])}
        row |= {name: rest[name].mean() for name in ("density_a", "density_b", *METRICS)}
        row["jaccard_low"], row["jaccard_high"] = _interval(rest)
        rows.append(row)
    table = _with_placebos(pd.DataFrame(rows), pairs[_wrong(pairs)], keys)
    if "layer" in table:
        table["layer"] = table["layer"].astype("Int64")
    return table


def _with_placebos(table: pd.DataFrame, wrong: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Add to aligned rows of two arms what wrong elements give: means over pairs; their mean and range."""
    columns = [f"placebo_{name}{end}" for name in PLACEBO_METRICS for end in ("", "_least", "_most")]
    wrong = wrong[(wrong["arm_a"] != wrong["arm_b"]) & ~wrong["treatment"].isin([UNTREATED, OUTSIDE])].rename(
        columns={"frame": "draw"}
    )
    if wrong.empty:
        return table.assign(placebos=0, **dict.fromkeys(columns, np.nan))
    own = [name for name in keys if name != "frame"]
    draws = wrong.groupby([*own, "draw"], dropna=False)[PLACEBO_METRICS].mean().reset_index()
    found = draws.groupby(own, dropna=False).agg(
        placebos=("update_cosine", "nunique"),  # a small group repeats its elements
        **{
            f"placebo_{name}{end}": (name, how)
            for name in PLACEBO_METRICS
            for end, how in (("", "mean"), ("_least", "min"), ("_most", "max"))
        },
    )
    merged = table.merge(found.reset_index().assign(frame="aligned"), how="left", on=keys)
    return merged.assign(placebos=merged["placebos"].fillna(0).astype(int))


def _interval(pairs: pd.DataFrame) -> tuple[float, float]:
    """95 % interval of the mean Jaccard, leaving out run by run; NaN where an arm has fewer than four."""
    if pairs["same_seed"].iloc[0]:
        return float("nan"), float("nan")
    within = bool(pairs["arm_a"].iloc[0] == pairs["arm_b"].iloc[0])
    runs = pairs.assign(run_a=pairs["seed_a"], run_b=pairs["seed_b"])
    found = resampled(runs, ["jaccard"], within=within).loc["jaccard"]
    return float(found["low"]), float(found["high"])
