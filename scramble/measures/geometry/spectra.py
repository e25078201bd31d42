"""The tables behind `scramble spectra`: principal angles, singular values, NSS, bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scramble.errors import TargetError
from scramble.measures.geometry.bounds import Bounds, check_bounds
from scramble.measures.geometry.subspaces import (
    EPS,
    SPECTRA_RANK,
    Decomposition,
    decompose,
    limited,
    principal_angles,
    singular_values,
)
from scramble.measures.pairs.ends import CheckpointPair
from scramble.measures.pairs.pooling import keys_of, places_in, with_places
from scramble.measures.pairs.selection import Selection, matrices, read_ends

if TYPE_CHECKING:
    from jaxtyping import Float64

Progress = Callable[[int, int], None]
_LARGEST = ["angle_left_max", "angle_right_max", "angle_resolution", *("weyl", "hoffman_wielandt", "ky_fan")]
_LARGEST += ["wedin", "rank"]


@dataclass(frozen=True)
class Spectrum:
    """One matrix of a run. Angles in degrees, ascending; singular values descending.

    Attributes:
        where: its tower (where there are several), layer, module and name.
        angle_resolution: what rounding in float64 alone can turn the subspaces by, `eps sigma_1 / (sigma_k -
            sigma_{k+1})` at the worse end, in degrees. Smaller angles are not told from zero.
    """

    tensor: str
    rank: int
    start: Float64[np.ndarray, " side"]
    end: Float64[np.ndarray, " side"]
    update_norm: float
    angles_left: Float64[np.ndarray, " rank"]
    angles_right: Float64[np.ndarray, " rank"]
    angle_resolution: float
    bounds: Bounds
    where: Mapping[str, object]


def spectrum(
    tensor: str,
    start: Float64[np.ndarray, "rows columns"],
    end: Float64[np.ndarray, "rows columns"],
    rank: int = SPECTRA_RANK,
    decomposed: Decomposition | None = None,
    where: Mapping[str, object] | None = None,
) -> Spectrum:
    """Measure one matrix, in float64 by full SVDs, and check the bounds (arXiv 2511.08567, 3.2, 4.1).

    Args:
        rank: of the subspaces; limited to half the smaller side.
        decomposed: the start's decomposition, where it is known.
        where: as in `Spectrum`; the name alone without.

    Raises:
        BoundError: the figures break a theorem.
    """
    rank = limited(rank, start.shape)
    one = decomposed or decompose(start)
    other = one if np.array_equal(start, end) else decompose(end)
    update = singular_values(end - start)
    left = principal_angles(one.left[:, :rank], other.left[:, :rank])
    right = principal_angles(one.right[:rank].T, other.right[:rank].T)
    largest = max(float(np.sin(left[-1])), float(np.sin(right[-1])))
    if other is one:
        left, right, largest = np.zeros(rank), np.zeros(rank), 0.0
    bounds = check_bounds(tensor, one.values, other.values, update, largest, rank, sum(start.shape))
    return Spectrum(
        tensor,
        rank,
        one.values,
        other.values,
        float(update[0]),
        np.degrees(left),
        np.degrees(right),
        max(_resolution(found.values, rank) for found in (one, other)),
        bounds,
        where or {"tensor": tensor},
    )


def _resolution(values: Float64[np.ndarray, " side"], rank: int) -> float:
    gap = values[rank - 1] - (values[rank] if rank < len(values) else 0.0)
    if gap <= EPS * values[0]:
        return 90.0
    return float(np.degrees(np.arcsin(EPS * values[0] / gap)))


def measure(
    run: CheckpointPair,
    rank: int = SPECTRA_RANK,
    chosen: Selection | None = None,
    progress: Progress = lambda done, total: None,
) -> list[Spectrum]:
    """Every chosen matrix of a run, one at a time in memory.

    Raises:
        BoundError: the figures break a theorem.
        SelectionError: nothing to measure.
    """
    return measure_together([run], rank, chosen, progress)[0]


def measure_together(
    runs: Sequence[CheckpointPair],
    rank: int = SPECTRA_RANK,
    chosen: Selection | None = None,
    progress: Progress = lambda done, total: None,
) -> list[list[Spectrum]]:
    """`measure` of several runs with the same tensors; a start that they share is decomposed once."""
    names = matrices(runs[0], chosen or Selection())
    found: list[list[Spectrum]] = [[] for _ in runs]
    for done, name in enumerate(names):
        last: tuple[Float64[np.ndarray, "rows columns"], Decomposition] | None = None
        for spectra_of, run in zip(found, runs, strict=True):
            start, end = read_ends(run, name)
            if last is None or not np.array_equal(last[0], start):
                last = start, decompose(start)
            spectra_of.append(spectrum(name, start, end, rank, last[1], run.where(name)))
        progress(done + 1, len(names))
    return found


def spectra(
    measured: Iterable[Spectrum], levels: Sequence[str] = ("model", "module", "layer")
) -> pd.DataFrame:
    """Angles in degrees, NSS and bounds, at each level.

    Over several matrices NSS is that of their singular values side by side, `_max` is the largest, `_mean`
    the mean over all angles, `rank` the largest, `wedin_bound` (degrees) the tightest. `weyl`,
    `hoffman_wielandt`, `ky_fan` and `wedin` are measured over bound, at most 1; `wedin_checked` counts the
    matrices with a gap.
    """
    rows = pd.DataFrame([dict(one.where) | _sums(one) for one in measured])
    return pd.concat([_pooled(rows, level) for level in levels], ignore_index=True)


def singular_value_curves(measured: Iterable[Spectrum]) -> pd.DataFrame:
    """One row a singular value: `index` from 1, `sigma_start`, `sigma_end`, and angles in degrees."""
    parts = []
    for one in measured:
        side = len(one.start)
        where = {name: value for name, value in one.where.items() if name != "role"}
        part = pd.DataFrame({**where, "index": np.arange(1, side + 1)})
        part["sigma_start"], part["sigma_end"] = one.start, one.end
        for name, angles in (("angle_left", one.angles_left), ("angle_right", one.angles_right)):
            part[name] = np.append(angles, np.full(side - one.rank, np.nan))
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _sums(one: Spectrum) -> dict[str, object]:
    bounds = asdict(one.bounds)
    return {
        "matrices": 1,
        "rank": one.rank,
        "shift_square": float(np.sum((one.end - one.start) ** 2)),
        "start_square": float(np.sum(one.start**2)),
        "angle_left_max": float(one.angles_left[-1]),
        "angle_left_mean": float(one.angles_left.sum()),
        "angle_right_max": float(one.angles_right[-1]),
        "angle_right_mean": float(one.angles_right.sum()),
        "angle_resolution": one.angle_resolution,
        "angles": one.rank,
        "wedin_checked": int(np.isfinite(one.bounds.wedin)),
        "update_spectral_norm": one.update_norm,
        **bounds,
    }


def _pooled(rows: pd.DataFrame, level: str) -> pd.DataFrame:
    keys = ["level", *keys_of(level, rows)]
    groups = rows.assign(level=level).groupby(keys, dropna=False, sort=False)
    summed = groups[["matrices", "shift_square", "start_square", "angles", "wedin_checked"]].sum()
    summed[["angle_left_mean", "angle_right_mean"]] = groups[["angle_left_mean", "angle_right_mean"]].sum()
    summed[_LARGEST] = groups[_LARGEST].max()
    summed["wedin_bound"] = groups["wedin_bound"].min()
    summed["update_spectral_norm"] = groups["update_spectral_norm"].max()
    found = summed.reset_index()
    norm = found["start_square"].where(found["start_square"] > 0)
    found["nss"] = np.sqrt(found["shift_square"] / norm)
    for name in ("angle_left_mean", "angle_right_mean"):
        found[name] /= found["angles"]
    columns = ["level", *places_in(rows), "matrices", "rank", "nss"]
    columns += ["angle_left_max", "angle_left_mean", "angle_right_max", "angle_right_mean"]
    columns += ["angle_resolution", "wedin_bound", "update_spectral_norm"]
    columns += ["weyl", "hoffman_wielandt", "ky_fan", "wedin", "wedin_checked"]
    return with_places(found, rows)[columns]


def write_values(measured: Iterable[Spectrum], path: Path) -> None:
    """Write `singular_value_curves` as CSV; an existing file is replaced.

    Raises:
        TargetError: it cannot be written.
    """
    try:
        singular_value_curves(measured).to_csv(path, index=False)
    except OSError as error:
        raise TargetError(f"{path}: cannot be written ({error.strerror or error})") from None
