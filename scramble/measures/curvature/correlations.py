"""The table behind `scramble curvature`: curvature beside what is said to stand for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from scramble.measures.curvature.measure import Curvature
from scramble.measures.geometry.masks import count_of, largest, low_magnitude_mask, principal_scores
from scramble.measures.geometry.subspaces import PRINCIPAL_RANK, limited
from scramble.measures.pairs.ends import CheckpointPair
from scramble.measures.pairs.pooling import keys_of, places_in, with_places
from scramble.measures.pairs.selection import read_ends

if TYPE_CHECKING:
    from jaxtyping import Float64

Progress = Callable[[int, int], None]
_RANKS = ["rho_principal", "rho_magnitude", "rho_update", "rho_principal_given_magnitude"]
_SUMS = ["matrices", "n", "sum", "squares", "error_square", "mass", "mass_principal", "mass_low_magnitude"]
_SUMS += ["chance"]


def matrix_figures(
    run: CheckpointPair,
    measured: Curvature,
    rank: int = PRINCIPAL_RANK,
    alpha: float = 0.5,
    progress: Progress = lambda done, total: None,
) -> pd.DataFrame:
    """One row a matrix and diagonal (of `Curvature.diagonals`), in float64.

    `rho_` are Spearman's rank correlations over the entries of the matrix, ties with their mean rank, of the
    diagonal (its size, for the Hessian) with the principal score `|rank-k reconstruction of W0|`, with `|W0|`
    and with `|W+ - W0|`; NaN where one of the two is constant. `rho_principal_given_magnitude` is the partial
    rank correlation: what the principal score says beyond magnitude. `mass` is the sum of the diagonal's
    size, `mass_` its part in the two masks of share alpha, `chance` what would lie there, were it even.
    """
    rows: list[dict[str, object]] = []
    for done, name in enumerate(measured.names):
        start, end = read_ends(run, name)
        score = principal_scores(start, limited(rank, start.shape), [alpha])
        ranks = {
            "principal": _ranks(score),
            "magnitude": _ranks(np.abs(start)),
            "update": _ranks(np.abs(end - start)),
        }
        taken = count_of(alpha, start.size)
        principal, low = largest(score, taken), low_magnitude_mask(start, alpha)
        overlap = _correlation(ranks["principal"], ranks["magnitude"])
        for kind, diagonal in measured.diagonals.items():
            values = diagonal.mean(*run.part(name)).numpy()
            size = np.abs(values)
            own = _ranks(size)
            rho = {f"rho_{what}": _correlation(own, other) for what, other in ranks.items()}
            rho["rho_principal_given_magnitude"] = _partial(
                rho["rho_principal"], rho["rho_magnitude"], overlap
            )
            rows.append(
                run.where(name)
                | {"curvature": kind, "matrices": 1, "n": values.size}
                | {"sum": float(values.sum()), "squares": float(np.sum(values**2))}
                | {"error_square": diagonal.error_square(*run.part(name)), "mass": float(size.sum())}
                | {"mass_principal": float(size[principal].sum())}
                | {"mass_low_magnitude": float(size[low].sum())}
                | {"chance": float(size.sum()) * taken / values.size}
                | rho
            )
        progress(done + 1, len(measured.names))
    return pd.DataFrame(rows)


def correlations(figures: pd.DataFrame, levels: Sequence[str] = ("model", "module", "layer")) -> pd.DataFrame:
    """All figures at each level.

    `mean` and `rms` are of the diagonal's entries, `error` the root mean square of their standard errors: an
    `error` near `rms` says that single entries are mostly noise, which draws every rank correlation towards
    zero. `rho_` at levels above `tensor` are means over matrices, weighted by their numbers of weights, of
    those matrices that have one. `in_principal` and `in_low_magnitude` are shares of the summed mass, beside
    `chance`.
    """
    found = pd.concat([_pooled(figures, level) for level in levels], ignore_index=True)
    found["mean"] = found["sum"] / found["n"]
    found["rms"] = np.sqrt(found["squares"] / found["n"])
    found["error"] = np.sqrt(found["error_square"] / found["n"])
    mass = found["mass"].where(found["mass"] > 0)
    for mask in ("principal", "low_magnitude"):
        found[f"in_{mask}"] = found[f"mass_{mask}"] / mass
    found["chance"] /= mass
    columns = ["level", *places_in(found), "curvature", "matrices", "n", "mean", "rms", "error", *_RANKS]
    return found[[*columns, "in_principal", "in_low_magnitude", "chance"]]


def _pooled(figures: pd.DataFrame, level: str) -> pd.DataFrame:
    weighted = figures.copy()
    for name in _RANKS:
        weighted[name] = figures[name] * figures["n"]
        weighted[f"{name}_n"] = figures["n"].where(figures[name].notna(), 0)
    groups = weighted.groupby([*keys_of(level, figures), "curvature"], dropna=False, sort=False)
    found = groups[_SUMS].sum(skipna=False)
    sums = groups[[*_RANKS, *(f"{name}_n" for name in _RANKS)]].sum()
    for name in _RANKS:
        found[name] = sums[name] / sums[f"{name}_n"].where(sums[f"{name}_n"] > 0)
    found = found.reset_index().assign(level=level)
    return with_places(found, figures)


def _ranks(values: Float64[np.ndarray, "rows columns"]) -> Float64[np.ndarray, " n"]:
    """Ranks of all entries about their mean; ties have their mean rank."""
    found: Float64[np.ndarray, " n"] = rankdata(values.reshape(-1))
    return found - (found.size + 1) / 2


def _correlation(one: Float64[np.ndarray, " n"], other: Float64[np.ndarray, " n"]) -> float:
    norm = np.sqrt((one @ one) * (other @ other))
    return float(one @ other / norm) if norm > 0 else float("nan")


def _partial(xy: float, xz: float, yz: float) -> float:
    """Correlation of x and y given z, from the three."""
    rest = (1 - xz**2) * (1 - yz**2)
    return (xy - xz * yz) / float(np.sqrt(rest)) if rest > 0 else float("nan")
