"""The tables behind `scramble diff` and `scramble overlap`, as data frames."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import combinations

import numpy as np
import pandas as pd

from scramble.errors import MismatchError
from scramble.updates.coordinate import FittedRun, row_column_counts
from scramble.updates.counts import fitted, pair_counts, update_counts
from scramble.updates.ends import FRAMES, Frame, Run, comparable
from scramble.updates.joint import count, threads
from scramble.updates.ratios import decomposition, pair_ratios, places_in, pool, update_ratios
from scramble.updates.resampling import resampled
from scramble.updates.streams import ArrayStream

Progress = Callable[[int, int], None]
PAIR = ["run_a", "run_b", "same_seed", "frame"]
_BOUND = re.compile("_(low|high)$")


def count_updates(
    run: Run, progress: Progress = lambda done, total: None, *, eta: float = 0.0
) -> pd.DataFrame:
    """Additive counts of one run, one row a tensor.

    Args:
        eta: if positive, the paper's tolerance rule in place of "the bits differ" (see `joint.count`).
    """
    rows: list[dict[str, object]] = []
    with ThreadPoolExecutor(threads()) as pool:
        for name in run.tensors:
            rows.append(run.where(name) | asdict(update_counts(count([run.stream(name)], pool, eta=eta))))
            progress(len(rows), len(run.tensors))
    return pd.DataFrame(rows)


def diff(counts: pd.DataFrame, levels: Sequence[str] = ("model", "module", "layer")) -> pd.DataFrame:
    """Sparsity at each level, from `count_updates`; `model` comes with and without embeddings and norms."""
    return pd.concat([update_ratios(part) for part in _pooled(counts, levels, [])], ignore_index=True)


def count_pairs(
    runs: Sequence[Run],
    frames: Sequence[Frame] = FRAMES,
    progress: Progress = lambda done, total: None,
    *,
    row_column: bool = False,
    eta: float = 0.0,
) -> pd.DataFrame:
    """Additive counts of every pair of runs, one row a tensor, pair and frame; each tensor is read once.

    Args:
        row_column: fit change rates by row and column too: a second pass, with whole tensors in memory.
        eta: as in `count_updates`.

    Raises:
        MismatchError: the runs are not of one model, or cannot be aligned because they have two bases.
        SelectionError: a run is listed twice, or more than eight are.
    """
    comparable(runs)
    frames = [frame for frame in FRAMES if frame in frames]
    rows: list[dict[str, object]] = []
    names = runs[0].tensors
    with ThreadPoolExecutor(threads()) as pool:
        for done, name in enumerate(names):
            for frame in frames:
                untouched = not any(name in run.undo for run in runs)
                if frame == "aligned" and "raw" in frames and untouched:
                    rows += [row | {"frame": "aligned"} for row in rows[-_pairs(runs) :]]
                    continue
                aligned = frame == "aligned" and not untouched
                streams = _aligned(name, runs) if aligned else [run.stream(name) for run in runs]
                joint = count(streams, pool, eta=eta, one_start=aligned)
                fits = _fits(name, runs, frame, eta, pool) if row_column else []
                for (a, left), (b, right) in combinations(enumerate(runs), 2):
                    row = runs[0].where(name) | _pair(left, right, frame) | asdict(pair_counts(joint, a, b))
                    rows.append(row | (asdict(row_column_counts(fits[a], fits[b])) if fits else {}))
            progress(done + 1, len(names))
    return pd.DataFrame(rows)


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
    leaving out run by run (`scramble.updates.resampling`); those of independent weights are left out.
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


def _pairs(runs: Sequence[Run]) -> int:
    return len(runs) * (len(runs) - 1) // 2


def _pair(a: Run, b: Run, frame: Frame) -> dict[str, object]:
    same = None if a.seed is None or b.seed is None else a.seed == b.seed
    return {"run_a": a.name, "run_b": b.name, "same_seed": same, "frame": frame}


def _fits(
    name: str, runs: Sequence[Run], frame: Frame, eta: float, pool: ThreadPoolExecutor
) -> list[FittedRun]:
    return list(pool.map(lambda run: fitted(run.read(name, frame), eta), runs))


def _aligned(name: str, runs: Sequence[Run]) -> list[ArrayStream]:
    updates = [run.read(name, "aligned") for run in runs]
    for run, update in zip(runs, updates, strict=True):
        if not np.array_equal(update.start, updates[0].start):
            raise MismatchError(
                f"'{name}': {run.name} and {runs[0].name} do not come from one base, so they share no frame"
            )
    return [ArrayStream(update) for update in updates]
