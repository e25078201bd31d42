"""How often the rows and the columns of a matrix changed (arXiv 2511.08567, 2.2 and figure 3).

A profile is the mean of the update mask along each row, or each column, at one checkpoint of a run. Beside
it: stripe scores, whether lines differ by more than sampling makes them (`stripes`), and the
correlation of profiles between checkpoints. Profiles are measured; smoothing is for the eye, in the figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from einops import rearrange
from jaxtyping import Bool, Float64, Int64, UInt16

from scramble.errors import SelectionError, TargetError
from scramble.files import whole
from scramble.measures.maps.stripes import Stripes, expected_changes, stripes, upper_tail
from scramble.measures.pairs.ends import CheckpointPair, comparable, ends, steps_of
from scramble.measures.pairs.masks import changed, magnitude_key
from scramble.measures.pairs.pooling import places_in, pool
from scramble.measures.pairs.selection import Selection, matrices

Progress = Callable[[int, int], None]
Side = Literal["row", "column"]
SIDES: tuple[Side, ...] = ("row", "column")
WINDOW = 3


@dataclass(frozen=True)
class Profile:
    """Change rates of the rows, or columns, of one matrix at one checkpoint.

    Attributes:
        checkpoint: the END.
        expected: the rates under `magnitude_matched`.
        where: tower (where there are several), layer, module and name of the matrix.
    """

    tensor: str
    checkpoint: str
    side: Side
    rate: Float64[np.ndarray, " lines"]
    expected: Float64[np.ndarray, " lines"]
    where: Mapping[str, object]


def measure(
    runs: Sequence[CheckpointPair], chosen: Selection, progress: Progress = lambda done, total: None
) -> tuple[list[Profile], pd.DataFrame]:
    """Profiles, and the sums behind stripe scores: a row a matrix, checkpoint, side and baseline.

    Args:
        runs: checkpoints of one START, in their order.

    Raises:
        SelectionError: they have several STARTs, one is listed twice, or nothing is left to measure.
        MismatchError: checkpoints of another model.
    """
    starts = {run.start.folder.resolve(): run.start.folder for run in runs}
    if len(starts) > 1:
        one, other = list(starts.values())[:2]
        raise SelectionError(f"{one} and {other}: rates are of checkpoints with one START")
    comparable(runs)
    names = matrices(runs[0], chosen)
    profiles: list[Profile] = []
    rows: list[dict[str, object]] = []
    for done, name in enumerate(names):
        held: dict[Side, Int64[np.ndarray, "lines classes"]] = {}
        for run in runs:
            update = run.read(name, "raw")
            mask = changed(update.start, update.end)
            index, used = classes(magnitude_key(update.start, update.values))
            held = held or {side: _held(index, used, side) for side in SIDES}
            moved = np.bincount(index[mask], minlength=used)
            for side in SIDES:
                here = mask if side == "row" else mask.T
                expected = expected_changes(held[side], moved)
                rate, length = here.mean(axis=1), here.shape[1]
                profiles.append(Profile(name, run.name, side, rate, expected / length, run.where(name)))
                where = run.where(name) | {"checkpoint": run.name, "side": side}
                rows += [
                    where | {"baseline": baseline, "n": mask.size, "changed": int(moved.sum())} | asdict(one)
                    for baseline, one in _scores(here, held[side], moved)
                ]
        progress(done + 1, len(names))
    return profiles, pd.DataFrame(rows)


def stripe_scores(counts: pd.DataFrame, levels: Sequence[str] = ("model", "module")) -> pd.DataFrame:
    """Stripe scores with their null at each level, from `measure`.

    `score` is 1 in the mean under the null, `null_sd` its standard deviation there, `z` and `p` say how far
    it is and how likely as much would be. `excess_sd` is the standard deviation of the lines' rates beyond
    the null (0 where there is none): unlike the score it does not grow with the length of the lines.
    """
    parts = [pool(counts, level, ["checkpoint", "side", "baseline"]) for level in levels]
    c = pd.concat(parts, ignore_index=True)
    names = ["level", *places_in(c), "checkpoint", "side", "baseline", "lines"]
    found = c[names].copy()
    found["rate"] = c["changed"] / c["n"]
    mean = c["expected"].where(c["expected"] > 0)
    found["score"] = c["excess"] / mean
    found["null_sd"] = np.sqrt(c["spread"]) / mean
    found["z"] = (found["score"] - 1) / found["null_sd"].where(found["null_sd"] > 0)
    found["p"] = [upper_tail(*sums) for sums in zip(c["excess"], c["expected"], c["spread"], strict=True)]
    found["excess_sd"] = np.sqrt((c["beyond"] / c["lines"]).clip(lower=0))
    return found


def correlations(profiles: Sequence[Profile], levels: Sequence[str] = ("model", "module")) -> pd.DataFrame:
    """Pearson and Spearman correlation of the profiles of every two checkpoints.

    `pearson_above_magnitude_matched` is Pearson's of what the profiles have above their expectation under
    `magnitude_matched`: whether the same lines change more than their magnitudes say.

    Pooled levels add (co)variances within the matrices, so that matrices with other densities do not
    correlate by that alone; ranks are within the matrix too, over its number of lines.

    Raises:
        SelectionError: one checkpoint.
    """
    from scipy.stats import rankdata

    rows: list[dict[str, object]] = []
    for group in _by_matrix(profiles):
        for a, b in combinations(group, 2):
            pair = {"checkpoint_a": a.checkpoint, "checkpoint_b": b.checkpoint, "side": a.side}
            ranks = [rankdata(one.rate) / len(one.rate) for one in (a, b)]
            above = [one.rate - one.expected for one in (a, b)]
            rows.append(
                dict(a.where)
                | pair
                | _covariances("", a.rate, b.rate)
                | _covariances("rank_", *ranks)
                | _covariances("above_", *above)
            )
    if not rows:
        raise SelectionError("correlations of profiles need two checkpoints or more")
    counts = pd.DataFrame(rows)
    parts = [pool(counts, level, ["checkpoint_a", "checkpoint_b", "side"]) for level in levels]
    c = pd.concat(parts, ignore_index=True)
    names = ["level", *places_in(c), "checkpoint_a", "checkpoint_b", "side"]
    found = c[names].copy()
    for name, prefix in (
        ("pearson", ""),
        ("spearman", "rank_"),
        ("pearson_above_magnitude_matched", "above_"),
    ):
        scale = np.sqrt(c[f"{prefix}variance_a"] * c[f"{prefix}variance_b"])
        found[name] = c[f"{prefix}covariance"] / scale.where(scale > 0)
    return found


def smoothed(rate: Float64[np.ndarray, " lines"]) -> Float64[np.ndarray, " lines"]:
    """The mean of each line and its neighbours, of those that there are at the ends."""
    window = np.ones(WINDOW)
    found: Float64[np.ndarray, " lines"] = np.convolve(rate, window)[1:-1]
    return found / np.convolve(np.ones(len(rate)), window)[1:-1]


def write_values(profiles: Sequence[Profile], path: Path) -> None:
    """Write all profiles, unsmoothed, as CSV; an existing file is replaced.

    Raises:
        TargetError: it cannot be written.
    """
    try:
        with whole(path) as partial, partial.open("w") as file:
            file.write("tensor,checkpoint,side,index,rate,magnitude_matched\n")
            for one in profiles:
                table = pd.DataFrame({"rate": one.rate, "magnitude_matched": one.expected})
                table.insert(0, "index", np.arange(len(table)))
                for column in ("side", "checkpoint", "tensor"):
                    table.insert(0, column, getattr(one, column))
                table.to_csv(file, index=False, header=False)
    except OSError as error:
        raise TargetError(f"{path}: cannot be written ({error.strerror or error})") from None


def checkpoints_of(folder: Path) -> list[CheckpointPair]:
    """The start of a run folder with each of its `checkpoints/step-*`, by step; see `steps_of`."""
    start, steps = steps_of(folder)
    return [ends(start, path) for path in steps.values()]


def classes(key: UInt16[np.ndarray, "..."]) -> tuple[Int64[np.ndarray, "..."], int]:
    """Keys numbered from 0 without gaps, and how many there are."""
    present = np.bincount(key.reshape(-1)) > 0
    return (np.cumsum(present) - 1)[key], int(present.sum())


def _held(
    index: Int64[np.ndarray, "rows columns"], used: int, side: Side
) -> Int64[np.ndarray, "lines classes"]:
    """How many weights of each class every line holds."""
    lines = index if side == "row" else index.T
    numbered = lines + used * np.arange(len(lines))[:, None]
    counts = np.bincount(numbered.reshape(-1), minlength=used * len(lines))
    return rearrange(counts, "(line key) -> line key", key=used)


def _scores(
    mask: Bool[np.ndarray, "lines length"],
    held: Int64[np.ndarray, "lines classes"],
    moved: Int64[np.ndarray, " classes"],
) -> Iterator[tuple[str, Stripes]]:
    changes = mask.sum(axis=1)
    yield "chance", stripes(changes, held.sum(axis=1, keepdims=True), moved.sum(keepdims=True))
    yield "magnitude_matched", stripes(changes, held, moved)


def _by_matrix(profiles: Sequence[Profile]) -> list[list[Profile]]:
    groups: dict[tuple[str, Side], list[Profile]] = {}
    for one in profiles:
        groups.setdefault((one.tensor, one.side), []).append(one)
    return list(groups.values())


def _covariances(
    prefix: str, a: Float64[np.ndarray, " lines"], b: Float64[np.ndarray, " lines"]
) -> dict[str, float]:
    a, b = a - a.mean(), b - b.mean()
    found = {"covariance": a @ b, "variance_a": a @ a, "variance_b": b @ b}
    return {prefix + name: float(value) for name, value in found.items()}
