"""Runs beside each other: what each has learned, how far its weights went, and where in them.

Every run is measured from its own start to its own last checkpoint, in float32 where that was kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from scramble.errors import CheckpointError, SelectionError
from scramble.files import whole
from scramble.measures.geometry.principal import count_masks_together, principal
from scramble.measures.geometry.spectra import measure_together, spectra
from scramble.measures.geometry.subspaces import PRINCIPAL_RANK, SPECTRA_RANK
from scramble.measures.pairs.ends import CheckpointPair, ends
from scramble.measures.updates.tables import count_pairs, count_updates, diff, overlap
from scramble.runfolder import RunFolder, is_run
from scramble.runrecord import FinishedRecord, Row
from scramble.runs.engine.run import start_hash
from scramble.runs.records.summary import before_and_after, quarters
from scramble.runs.records.toolchains import mixed

Progress = Callable[[int, int], None]
ALPHA = 0.5
LEVELS = ("model", "module", "layer")
_SHARES = {
    "overlap_update": "principal",
    "chance_update": "principal_chance",
    "magnitude_matched_update": "principal_magnitude_matched",
}


@dataclass(frozen=True)
class Comparison:
    """Tables of finished runs; `name` tells the runs apart in all of them.

    Attributes:
        runs: one row a run, see `compare`.
        places: sparsity, relative norm of the update, NSS, largest and mean principal angles (degrees, the
            larger of left and right), and the fraction of changed weights that are principal, of the measured
            matrices by module and by layer.
        pairs: overlap of the updates of every two runs of one start, in the measured matrices.
        toolchains: which packages and hardware differ between the runs; None if all are the same.
    """

    runs: pd.DataFrame
    places: pd.DataFrame
    pairs: pd.DataFrame
    toolchains: str | None = None

    def write(self, folder: Path) -> None:
        """Write the tables as CSV; one without rows is not written."""
        for name in ("runs", "places", "pairs"):
            table = getattr(self, name)
            if len(table):
                with whole(folder / f"{name}.csv") as partial:
                    table.to_csv(partial, index=False)


def compare(
    folders: Sequence[Path],
    rank: int = SPECTRA_RANK,
    principal_rank: int = PRINCIPAL_RANK,
    alpha: float = ALPHA,
    progress: Progress = lambda done, total: None,
) -> Comparison:
    """Measure finished runs.

    A row of `runs` says what was trained and how, and whether training `collapsed` (the step); mean `score`
    (fraction of correct answers, penalties left out) and `reward` of the first and the last quarter of the
    steps that sampled, or `loss` where none did; pass@k before and after; `kl_to_start`, KL(start || policy)
    in nats a token; `seconds`. Of the weights: whether the `end` is fp32 or bf16, `update_norm` (`||dW||_F`
    of all weights, tied ones once, differences of what is stored summed in float64) and `sparsity` (of bf16
    words, all weights). Of the matrices that `scramble spectra` measures, embeddings and heads left out:
    `sparsity_matrices`, `nss`, `angle_max` (degrees), and `principal`, the fraction of changed weights that
    are principal, beside `principal_chance` and `principal_magnitude_matched`.

    Args:
        folders: run folders.
        rank: of the singular subspaces whose angles are measured.
        principal_rank, alpha: of the principal mask, as in `scramble principal`.

    Raises:
        SelectionError: a run is not finished, is damaged, has no weights, or is listed twice.
        CheckpointError: the start of a run is not there any more, or is another than it was.
    """
    paths = [path.resolve() for path in folders]
    if twice := [path for path, same in zip(folders, paths, strict=True) if paths.count(same) > 1]:
        raise SelectionError(f"{twice[0]}: listed twice")
    hashed = cache(start_hash)
    opened = [_open(path, hashed) for path in folders]
    names = _names(opened)
    by_start = sorted(range(len(opened)), key=lambda at: opened[at].start)
    groups = [list(group) for _, group in groupby(by_start, key=lambda at: opened[at].start)]
    rows: dict[int, Row] = {}
    places, pairs = [], []
    for number, group in enumerate(groups):
        runs = [opened[at].run for at in group]
        parts = (_part(progress, 2 * number + half, 2 * len(groups)) for half in (0, 1))
        measured = measure_together(runs, rank, None, next(parts))
        masks = count_masks_together(runs, principal_rank, [alpha], 0, None, next(parts))
        tensors = {runs[0].part(one.tensor)[0] for one in measured[0]}
        for at, run, one, marked in zip(group, runs, measured, masks, strict=True):
            counts = count_updates(run)
            inner = counts[counts["tensor"].isin(tensors)]
            table = _joined(diff(inner, LEVELS), spectra(one, LEVELS), principal(marked, LEVELS))
            whole = table[table["level"] == "model"].iloc[0]
            rows[at] = {"name": names[at]} | _record(opened[at])
            rows[at] |= {
                "update_norm": float(counts["update_square"].sum()) ** 0.5,
                "sparsity": 1 - float(counts["changed"].sum() / counts["n"].sum()),
                "sparsity_matrices": whole["sparsity"],
                **{name: whole[name] for name in ("nss", "angle_max", *_SHARES.values())},
            }
            places.append(table[table["level"].isin(("module", "layer"))].assign(name=names[at]))
        if len(runs) > 1:
            counts = count_pairs(runs, ["raw"])
            found = overlap(counts[counts["tensor"].isin(tensors)], ["model"]).query("level == 'model'")
            ends_of = {run.name: names[at] for at, run in zip(group, runs, strict=True)}
            found = found.replace({"run_a": ends_of, "run_b": ends_of})
            pairs.append(found.drop(columns=["level", "layer", "module", "tensor", "frame"]))
    table = pd.DataFrame([rows[at] for at in range(len(opened))])
    return Comparison(
        table[sorted(table, key=_place)],
        pd.concat(places, ignore_index=True).sort_values("level", kind="stable", ignore_index=True),
        pd.concat(pairs, ignore_index=True) if pairs else pd.DataFrame(),
        mixed({name: one.record for name, one in zip(names, opened, strict=True)}),
    )


@dataclass(frozen=True)
class _Opened:
    path: Path
    record: FinishedRecord
    recipe: dict[str, Any]
    metrics: list[Row]
    start: str
    run: CheckpointPair


def _open(path: Path, hashed: Callable[[Path], str]) -> _Opened:
    folder = RunFolder(path)
    if not is_run(path):
        raise SelectionError(f"{path}: not a run folder: neither run.json nor recipe.yaml is there")
    record, recipe, metrics = folder.read()
    if not isinstance(record, FinishedRecord):
        raise SelectionError(f"{path}: not finished ({folder.status})")
    try:
        recipe["name"], recipe["task"]["name"], recipe["algorithm"]["name"]
    except (KeyError, TypeError):
        raise SelectionError(f"{path}: damaged: recipe.yaml lacks what a finished run has") from None
    start, digest, end = Path(record.start.path), record.start.hash, folder.end
    if not end.exists():
        why = "training collapsed, no weights were finite" if record.collapsed else f"{end} is not there"
        raise SelectionError(f"{path}: no last checkpoint: {why}")
    if not start.is_dir():
        raise CheckpointError(f"{path}: its start {start} is not there any more")
    if hashed(start) != digest:
        raise CheckpointError(f"{path}: its start {start} is not what it was when the run began")
    return _Opened(path, record, recipe, metrics, digest, ends(start, end))


def _names(opened: Sequence[_Opened]) -> list[str]:
    """Names of the recipes, with seeds where those are not enough, and else the folders' names."""
    for name in (
        lambda one: str(one.recipe["name"]),
        lambda one: f"{one.recipe['name']} seed {one.recipe['seed']}",
        lambda one: one.path.name,
    ):
        names = [name(one) for one in opened]
        if len(set(names)) == len(names):
            return names
    return [str(one.path) for one in opened]


def _record(one: _Opened) -> Row:
    recipe, metrics, step = one.recipe, one.metrics, one.record.end.step
    held_out, collapsed = one.record.held_out, one.record.collapsed
    section = {name: recipe.get(name) or {} for name in ("adapter", "mask", "optimizer", "evaluation")}
    kl = [row["kl_to_start"] for row in metrics if "kl_to_start" in row]
    sampled = any("reward" in row for row in metrics)
    figures = [quarters(metrics, name) for name in (("score", "reward") if sampled else ("loss",))]
    return {
        "task": recipe["task"].get("dataset") or recipe["task"]["name"],
        "algorithm": recipe["algorithm"]["name"],
        "optimizer": section["optimizer"].get("name"),
        "learning_rate": section["optimizer"].get("learning_rate"),
        "mask": section["mask"].get("kind"),
        "adapter": section["adapter"].get("name"),
        "seed": recipe["seed"],
        "start": one.start[:12],
        "steps": step,
        "collapsed": collapsed.step if collapsed else None,
        **{name: value for figure in figures for name, value in figure.items()},
        **before_and_after(one.record.evaluation, step),
        "held_out": held_out.hash[:12] if held_out else None,
        "kl_to_start": kl[-1] if kl else None,
        "seconds": one.record.seconds,
        "end": "fp32" if one.run.end.folder.name == "fp32" else "bf16",
    }


def _place(column: str) -> int:
    """Figures of learning stand together, whichever run had them first; those of the weights come last."""
    if column.endswith(("_first", "_last", "_before", "_after")):
        return 1
    last = ["held_out", "kl_to_start", "seconds", "end", "update_norm", "sparsity", "sparsity_matrices"]
    return 2 if column in (*last, "nss", "angle_max", *_SHARES.values()) else 0


def _joined(changes: pd.DataFrame, shifts: pd.DataFrame, masks: pd.DataFrame) -> pd.DataFrame:
    """One table of all figures at each level."""
    keys = ["level", "layer", "module"]
    for kind in ("max", "mean"):
        shifts[f"angle_{kind}"] = shifts[[f"angle_left_{kind}", f"angle_right_{kind}"]].max(axis=1)
    masks = masks[masks["mask"] == "principal"].rename(columns=_SHARES)
    found = changes[[*keys, "n", "changed", "sparsity", "relative_update_norm"]]
    found = found.merge(shifts[[*keys, "nss", "angle_max", "angle_mean"]], on=keys)
    return found.merge(masks[[*keys, *_SHARES.values()]], on=keys)


def _part(progress: Progress, at: int, parts: int) -> Progress:
    """Progress of one of several measurements of equal length, as a part of the whole."""
    return lambda done, total: progress(at * total + done, parts * total)
