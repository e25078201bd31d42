"""Runs beside each other: what each has learned, how far its weights went, and where in them.

Every run is measured from its own start to its own last checkpoint, in float32 where that was kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from runs.folder import RunFolder
from runs.records import show_run
from runs.run import start_hash
from runs.summary import Row, before_and_after, first_and_last_quarter
from scramble.errors import CheckpointError, SelectionError
from scramble.geometry.principal import count_masks_together, principal
from scramble.geometry.spectra import measure_together, spectra
from scramble.geometry.subspaces import PRINCIPAL_RANK, SPECTRA_RANK
from scramble.updates.ends import Run, ends
from scramble.updates.tables import count_pairs, count_updates, diff, overlap

Progress = Callable[[int, int], None]
ALPHA = 0.5
LEVELS = ("model", "module", "layer")
INNER = "model without embeddings and norms"
MOST_PAIRED = 8


@dataclass(frozen=True)
class Comparison:
    """Tables of finished runs; `name` tells the runs apart in all of them.

    Attributes:
        runs: one row a run, see `compare`.
        places: sparsity, relative norm of the update, NSS, largest and mean principal angles (degrees, the
            larger of left and right), and the share of the update in the principal weights, by module and
            by layer.
        pairs: overlap of the updates of every two runs of one start, in the matrices of the layers; empty
            where one start has more than eight runs.
    """

    runs: pd.DataFrame
    places: pd.DataFrame
    pairs: pd.DataFrame

    def write(self, folder: Path) -> None:
        """Write the tables as CSV."""
        for field in fields(self):
            getattr(self, field.name).to_csv(folder / f"{field.name}.csv", index=False)


def compare(
    folders: Sequence[Path],
    rank: int = SPECTRA_RANK,
    principal_rank: int = PRINCIPAL_RANK,
    alpha: float = ALPHA,
    progress: Progress = lambda done, total: None,
) -> Comparison:
    """Measure finished runs.

    A row of `runs` has what was trained (`algorithm`, `optimizer`, `mask`, `adapter`, `seed`, the hash of its
    `start`, `steps`), mean reward (or loss) of the first and the last quarter of the steps that have one,
    pass@k before and after, `kl_to_start` (nats a token), `seconds`; and of the weights `update_norm`
    (`||dW||_F` of all weights, tied ones once, float32 differences summed in float64), `sparsity` (of bf16
    words, all weights) and `sparsity_matrices` (matrices in the layers), and for these matrices `nss`,
    `angle_max` (degrees), and `principal`, the share of the changed weights that are principal, beside
    `principal_chance` and `principal_magnitude_matched`.

    Args:
        folders: run folders.
        rank: of the singular subspaces whose angles are measured.
        principal_rank, alpha: of the principal mask, as in `scramble principal`.

    Raises:
        SelectionError: a run is not finished, has no weights, or is listed twice.
        CheckpointError: the start of a run is not there any more, or is another than it was.
    """
    opened = [_open(path) for path in folders]
    if twice := [
        one.folder.path for one in opened if [o.folder.path for o in opened].count(one.folder.path) > 1
    ]:
        raise SelectionError(f"{twice[0]}: listed twice")
    names = _names(opened)
    by_start = sorted(range(len(opened)), key=lambda at: opened[at].start)
    groups = [list(group) for _, group in groupby(by_start, key=lambda at: opened[at].start)]
    rows: dict[int, Row] = {}
    places, pairs = [], []
    steps = _Steps(progress, 2 * len(groups))
    for group in groups:
        runs = [opened[at].run for at in group]
        measured = measure_together(runs, rank, None, next(steps))
        masks = count_masks_together(runs, principal_rank, [alpha], 0, None, next(steps))
        for at, run, one, marked in zip(group, runs, measured, masks, strict=True):
            counts = count_updates(run)
            tables = (diff(counts, LEVELS), spectra(one, LEVELS), principal(marked, LEVELS))
            weights, places_of = _joined(*tables)
            norm = float(counts["update_square"].sum()) ** 0.5
            rows[at] = {"name": names[at]} | _record(opened[at]) | {"update_norm": norm} | weights
            places.append(places_of.assign(name=names[at]))
        if 1 < len(runs) <= MOST_PAIRED:
            found = overlap(count_pairs(runs, ["raw"]), ["model"])
            ends_of = {run.name: names[at] for at, run in zip(group, runs, strict=True)}
            found = found[found["level"] == INNER].drop(
                columns=["level", "layer", "module", "tensor", "frame"]
            )
            pairs.append(found.replace({"run_a": ends_of, "run_b": ends_of}))
    first = ["name", "level", "layer", "module"]
    table = pd.concat(places, ignore_index=True)
    return Comparison(
        pd.DataFrame([rows[at] for at in range(len(opened))]),
        table[[*first, *(name for name in table if name not in first)]],
        pd.concat(pairs, ignore_index=True) if pairs else pd.DataFrame(),
    )


@dataclass(frozen=True)
class _Opened:
    folder: RunFolder
    shown: dict[str, Any]
    start: str
    run: Run


def _open(path: Path) -> _Opened:
    shown = show_run(path)
    if shown.get("status") != "finished":
        raise SelectionError(f"{path}: not finished ({shown.get('status', 'missing')})")
    folder = RunFolder(path)
    end = folder.checkpoint(folder.last_step, fp32=True)
    end = end if end.exists() else folder.checkpoint(folder.last_step)
    if not end.exists():
        raise SelectionError(f"{path}: its last checkpoint {end} is not there")
    start = Path(shown["start"]["path"])
    if not start.is_dir():
        raise CheckpointError(f"{path}: its start {start} is not there any more")
    if start_hash(start) != shown["start"]["hash"]:
        raise CheckpointError(f"{path}: its start {start} is not what it was when the run began")
    return _Opened(folder, shown, shown["start"]["hash"], ends(start, end))


def _names(opened: Sequence[_Opened]) -> list[str]:
    """Names of the recipes, with seeds where those are not enough, and else the folders' names."""
    for name in (
        lambda one: str(one.shown["recipe"]["name"]),
        lambda one: f"{one.shown['recipe']['name']} seed {one.shown['recipe']['seed']}",
        lambda one: one.folder.path.name,
    ):
        names = [name(one) for one in opened]
        if len(set(names)) == len(names):
            return names
    return [str(one.folder.path) for one in opened]


def _record(one: _Opened) -> Row:
    recipe, metrics = one.shown["recipe"], one.folder.metrics
    adapter, mask = recipe.get("adapter") or {}, recipe.get("mask") or {}
    kl = [row["kl_to_start"] for row in metrics if "kl_to_start" in row]
    return {
        "algorithm": recipe["algorithm"]["name"],
        "optimizer": recipe["optimizer"]["name"],
        "mask": mask.get("kind"),
        "adapter": adapter.get("name"),
        "seed": recipe["seed"],
        "start": one.start[:12],
        "steps": one.folder.last_step,
        **first_and_last_quarter(metrics),
        **before_and_after(one.shown.get("evaluation")),
        "kl_to_start": kl[-1] if kl else None,
        "seconds": one.shown.get("seconds"),
    }


def _joined(changes: pd.DataFrame, shifts: pd.DataFrame, masks: pd.DataFrame) -> tuple[Row, pd.DataFrame]:
    """The figures of all weights, and a table of those by module and layer."""
    shifts = shifts.assign(
        angle_max=shifts[["angle_left_max", "angle_right_max"]].max(axis=1),
        angle_mean=shifts[["angle_left_mean", "angle_right_mean"]].max(axis=1),
    )
    masks = masks[masks["mask"] == "principal"].rename(
        columns={
            "overlap_update": "principal",
            "chance_update": "principal_chance",
            "magnitude_matched_update": "principal_magnitude_matched",
        }
    )
    geometry = ["nss", "angle_max", "angle_mean"]
    shares = ["principal", "principal_chance", "principal_magnitude_matched"]
    keys = ["level", "layer", "module"]
    tables = [
        changes[[*keys, "n", "changed", "sparsity", "relative_update_norm"]],
        shifts[[*keys, *geometry]],
        masks[[*keys, *shares]],
    ]
    found = tables[0]
    for table in tables[1:]:
        found = found.merge(table, on=keys, how="left")
    whole = {level: found[found["level"] == level].iloc[0] for level in ("model", INNER)}
    row = {"sparsity": whole["model"]["sparsity"], "sparsity_matrices": whole[INNER]["sparsity"]}
    row |= {name: whole["model"][name] for name in ("nss", "angle_max", *shares)}
    return row, found[found["level"].isin(("module", "layer"))]


class _Steps:
    """Progress of one measurement after the other, as one."""

    def __init__(self, progress: Progress, parts: int) -> None:
        self.progress, self.parts, self.at = progress, parts, -1

    def __iter__(self) -> Iterator[Progress]:
        return self

    def __next__(self) -> Progress:
        self.at += 1
        at = self.at
        return lambda done, total: self.progress(at * total + done, self.parts * total)
