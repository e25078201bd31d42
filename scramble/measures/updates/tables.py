"""The tables behind `scramble diff` and `scramble overlap`, as data frames."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields
from itertools import combinations
from operator import itemgetter

import numpy as np
import pandas as pd

from scramble.architecture import Role
from scramble.errors import MismatchError
from scramble.measures.pairs.ends import FRAMES, PLACEBO, CheckpointPair, Frame, comparable
from scramble.measures.pairs.pooling import places_in, pool
from scramble.measures.pairs.streams import ArrayStream, Update
from scramble.measures.updates.coordinate import FittedRun, RowColumnCounts, row_column_counts
from scramble.measures.updates.counts import fitted, pair_counts, update_counts
from scramble.measures.updates.joint import MOST_RUNS, count, threads
from scramble.measures.updates.ratios import decomposition, pair_ratios, update_ratios
from scramble.measures.updates.resampling import resampled

Progress = Callable[[int, int], None]
PAIR = ["run_a", "run_b", "same_seed", "frame"]
_BOUND = re.compile("_(low|high)$")


def count_updates(
    run: CheckpointPair,
    progress: Progress = lambda done, total: None,
    *,
    eta: float = 0.0,
    tensors: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Additive counts of one run, one row a tensor.

    Args:
        eta: if positive, the paper's tolerance rule in place of "the bits differ" (see `joint.count`).
        tensors: names of those to count; all by default.
    """
    rows: list[dict[str, object]] = []
    with ThreadPoolExecutor(threads()) as pool:
        names = run.tensors if tensors is None else tensors
        for name in names:
            rows.append(run.where(name) | asdict(update_counts(count([run.stream(name)], pool, eta=eta))))
            progress(len(rows), len(names))
    return pd.DataFrame(rows)


def diff(counts: pd.DataFrame, levels: Sequence[str] = ("model", "module", "layer")) -> pd.DataFrame:
    """Sparsity at each level, from `count_updates`; `model` comes with and without embeddings and norms."""
    return pd.concat([update_ratios(part) for part in _pooled(counts, levels, [])], ignore_index=True)


def count_pairs(
    runs: Sequence[CheckpointPair],
    frames: Sequence[Frame] = FRAMES,
    progress: Progress = lambda done, total: None,
    *,
    row_column: bool = False,
    eta: float = 0.0,
    tensors: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Additive counts of every pair of runs, one row a tensor, pair and frame.

    Up to eight runs are read once, more in groups of eight. Where runs have wrong alignments ready
    (`ends(..., placebos=K)`), each of them is a frame of its own, `placebo-0` and on.

    Args:
        row_column: fit change rates by row and column too: a second pass, with whole tensors in memory.
        eta, tensors: as in `count_updates`.

    Raises:
        MismatchError: the runs are not of one model, or cannot be aligned because they have two bases.
        SelectionError: a run is listed twice.
    """
    comparable(runs)
    frames = [frame for frame in FRAMES if frame in frames]
    placebos = min((len(run.placebos) for run in runs if run.undo), default=0) if "aligned" in frames else 0
    views: list[tuple[str, Frame, int | None]] = [(frame, frame, None) for frame in frames]
    views += [(f"{PLACEBO}{number}", "aligned", number) for number in range(placebos)]
    rows: list[dict[str, object]] = []
    names = runs[0].tensors if tensors is None else tensors
    with ThreadPoolExecutor(threads()) as pool:
        for done, name in enumerate(names):
            untouched, raw = not any(name in run.undo for run in runs), list[dict[str, object]]()
            for label, frame, placebo in views:
                if frame == "aligned" and raw and untouched:
                    rows += [row | {"frame": label} for row in raw]
                    continue
                aligned = frame == "aligned" and not untouched
                fits = _fits(name, runs, frame, placebo, eta, pool) if row_column else []
                found = dict[tuple[int, int], dict[str, object]]()
                for batch in _batches(len(runs)):
                    chosen = [runs[k] for k in batch]
                    streams = (
                        _aligned(name, chosen, placebo) if aligned else [run.stream(name) for run in chosen]
                    )
                    joint = count(streams, pool, eta=eta, one_start=aligned)
                    for a, b in combinations(range(len(batch)), 2):
                        left, right = batch[a], batch[b]
                        row = runs[0].where(name) | _pair(runs[left], runs[right], label)
                        row |= asdict(pair_counts(joint, a, b))
                        if fits:
                            row |= _row_column(fits[left], fits[right])
                        found[left, right] = row
                ordered = [found[pair] for pair in sorted(found)]
                rows += ordered
                raw = ordered if frame == "raw" else raw
            progress(done + 1, len(names))
    return pd.DataFrame(rows)


def _batches(runs: int) -> list[tuple[int, ...]]:
    """Groups of runs that are counted together; every pair stands in one of them at least."""
    if runs <= MOST_RUNS:
        return [tuple(range(runs))]
    half = MOST_RUNS // 2
    parts = [tuple(range(first, min(first + half, runs))) for first in range(0, runs, half)]
    return [one + other for one, other in combinations(parts, 2)]


def overlap(counts: pd.DataFrame, levels: Sequence[str] = ("model", "module", "layer")) -> pd.DataFrame:
    """Figures of every pair at each level, from `count_pairs`."""
    return pd.concat([pair_ratios(part) for part in _pooled(counts, levels, PAIR)], ignore_index=True)


def decomposed(counts: pd.DataFrame, levels: Sequence[str] = ("model", "module", "layer")) -> pd.DataFrame:
    """What every pair's overlap above chance is made of, from `count_pairs(..., row_column=True)`."""
    return pd.concat([decomposition(part) for part in _pooled(counts, levels, PAIR)], ignore_index=True)


def mean_pairs(table: pd.DataFrame) -> pd.DataFrame:
    """Means over pairs of runs of what `overlap` or `decomposed` gave: the paper's off-diagonal mean (2.2).

    Pairs with one seed, which saw the same prompts, are apart from those with two; `pairs` says how many
    there are. Where there are four runs or more, `jaccard` or `coordinate_share` has a 95 % interval from
    leaving out run by run (`resampling`); those of independent weights are left out.
    """
    keys = ["level", *places_in(table), "frame", "same_seed"]
    figures = [
        name for name in table if name not in (*keys, "run_a", "run_b", "n") and not _BOUND.search(name)
    ]
    rows = []
    labelled = table.assign(same_seed=table["same_seed"].astype("boolean"))
    for group, pairs in labelled.groupby(keys, dropna=False, sort=False):
        found = resampled(pairs, figures, within=True)
        row = dict(zip(keys, group, strict=True)) | {"pairs": len(pairs), "n": pairs["n"].iloc[0]}
        for name in figures:
            row[name] = found.loc[name, "mean"]
            if name in ("jaccard", "coordinate_share"):
                row |= {f"{name}_{end}": found.loc[name, end] for end in ("low", "high")}
        rows.append(row)
    means = pd.DataFrame(rows)
    return means.assign(layer=means["layer"].astype("Int64"))


def _pooled(counts: pd.DataFrame, levels: Sequence[str], keep: Sequence[str]) -> list[pd.DataFrame]:
    parts = []
    for level in levels:
        parts.append(pool(counts, level, keep))
        if level == "model":
            inner = counts[counts["role"] != "embedding"]
            parts.append(pool(inner, level, keep).assign(level="model without embeddings"))
            matrices = inner[inner["role"] != "norm"]
            parts.append(pool(matrices, level, keep).assign(level="model without embeddings and norms"))
    return [part for part in parts if len(part)]


def _pair(a: CheckpointPair, b: CheckpointPair, frame: str) -> dict[str, object]:
    same = None if a.seed is None or b.seed is None else a.seed == b.seed
    return {"run_a": a.name, "run_b": b.name, "same_seed": same, "frame": frame}


def _fits(
    name: str,
    runs: Sequence[CheckpointPair],
    frame: Frame,
    placebo: int | None,
    eta: float,
    pool: ThreadPoolExecutor,
) -> list[list[FittedRun]]:
    """For each run the fits of a tensor's matrices."""
    role = runs[0].start.roles[name]

    def fits(run: CheckpointPair) -> list[FittedRun]:
        return [fitted(one, eta) for one in _matrices(_read(run, name, frame, placebo), role)]

    return list(pool.map(fits, runs))


def _matrices(update: Update, role: Role) -> list[Update]:
    """What rows and columns are fitted in: a matrix, each of a stack, or a vector of what is no matrix."""
    if role not in ("matrix", "embedding"):
        return [update.taken(lambda one: one.reshape(-1))]
    if update.start.ndim != 3:
        return [update]
    return [update.taken(itemgetter(at)) for at in range(len(update.start))]


def _row_column(a: Sequence[FittedRun], b: Sequence[FittedRun]) -> dict[str, float]:
    """Counts of one tensor of two runs: the sum over its matrices."""
    counts = [asdict(row_column_counts(one, other)) for one, other in zip(a, b, strict=True)]
    return {field.name: sum(one[field.name] for one in counts) for field in fields(RowColumnCounts)}


def _read(run: CheckpointPair, name: str, frame: Frame, placebo: int | None) -> Update:
    """A run without a scramble has no placebo: it is in the base's frame already."""
    return run.read(name, frame, placebo if run.undo else None)


def _aligned(name: str, runs: Sequence[CheckpointPair], placebo: int | None) -> list[ArrayStream]:
    updates = [_read(run, name, "aligned", placebo) for run in runs]
    for run, update in zip(runs, updates, strict=True):
        if not np.array_equal(update.start, updates[0].start):
            raise MismatchError(
                f"'{name}': {run.name} and {runs[0].name} do not come from one base, so they share no frame"
            )
    return [ArrayStream(update) for update in updates]
