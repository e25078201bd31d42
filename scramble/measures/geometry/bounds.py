"""Perturbation bounds that every measured spectrum must obey; a broken one is a bug in the measurement.

arXiv 2511.08567, 3.2 and F.3. With `D = W+ - W0`, all spectra descending:

- Weyl: `max |d sigma_i| <= ||D||_2`;
- Hoffman-Wielandt: `||d sigma||_2 <= ||D||_F`;
- Ky Fan, in Mirsky's form: the k largest `|d sigma_i|` sum to no more than the k largest `sigma_i(D)`, each
  k;
- Wedin: the sines of the largest principal angles, left and right, are at most `||D||_2 / gap`, with
  `gap = sigma_k(W+) - sigma_{k+1}(W0)`. A theorem only where the gap is positive; elsewhere not checked.

Slack. LAPACK's computed decomposition is the exact one of `W + E` with `||E||_2 <= p eps ||W||_2`, where
`p` grows slowly with the size; measured errors stay below `eps sqrt(rows + columns)`, and four times that
is allowed (`tau`, below 1e-12 of the norm for any weight; updates are a millionth and more). So singular
values may each be wrong by `tau`, and computed subspaces are those of weights that lie `2 tau` further
apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scramble.errors import BoundError
from scramble.measures.geometry.subspaces import EPS

if TYPE_CHECKING:
    from jaxtyping import Float64


@dataclass(frozen=True)
class Bounds:
    """Measured over bound, slack included: at most 1. `wedin` and `wedin_bound` are NaN without a gap.

    Attributes:
        gap: `sigma_k(W+) - sigma_{k+1}(W0)`.
        wedin_bound: in degrees; 90 says nothing.
    """

    weyl: float
    hoffman_wielandt: float
    ky_fan: float
    wedin: float
    wedin_bound: float
    gap: float


def check_bounds(
    tensor: str,
    start: Float64[np.ndarray, " side"],
    end: Float64[np.ndarray, " side"],
    update: Float64[np.ndarray, " side"],
    largest_sine: float,
    rank: int,
    size: int,
) -> Bounds:
    """Check the bounds on one weight.

    Args:
        tensor: its name, for the error.
        start, end, update: singular values of `W0`, `W+` and `W+ - W0`, descending.
        largest_sine: sine of the largest principal angle between the top-`rank` subspaces, left or right.
        size: rows plus columns.

    Raises:
        BoundError: a bound is broken.
    """
    tau = 4 * EPS * np.sqrt(size) * (start[0] + end[0] + update[0])
    shift = np.sort(np.abs(end - start))[::-1]
    count = np.arange(1, len(start) + 1)
    gap = float(end[rank - 1] - (start[rank] if rank < len(start) else 0.0))
    wedin = bound = float("nan")
    if gap > 2 * tau:
        allowed = min(1.0, (update[0] + 2 * tau) / (gap - 2 * tau))
        wedin = _share(largest_sine, allowed + 4 * EPS * np.sqrt(size))
        bound = float(np.degrees(np.arcsin(allowed)))
    found = Bounds(
        weyl=_share(shift[0], update[0] + tau),
        hoffman_wielandt=_share(
            np.sqrt(np.sum(shift**2)), np.sqrt(np.sum(update**2)) + tau * np.sqrt(len(start))
        ),
        ky_fan=max(map(_share, np.cumsum(shift), np.cumsum(update) + tau * count)),
        wedin=wedin,
        wedin_bound=bound,
        gap=gap,
    )
    for name in ("weyl", "hoffman_wielandt", "ky_fan", "wedin"):
        share = getattr(found, name)
        if not (share <= 1 or (name == "wedin" and np.isnan(share))):
            raise BoundError(
                f"'{tensor}' breaks the bound {name} {share:.6g}-fold, which no weight can: "
                "a bug in scramble; please report it with the two checkpoints"
            )
    return found


def _share(measured: float, bound: float) -> float:
    if bound > 0:
        return float(measured) / float(bound)
    return 0.0 if measured == 0 else float("inf")
