"""The part of two runs' overlap that magnitudes, rows and columns leave: how their residuals go together.

Let `r = M - p` be a run's residual under its own row and column fit. The coordinate-level part of the overlap
is estimated by `C = f sum rA rB`, and `X - C` is the expected intersection under the baseline. Were the fits
exact, `sum pA pB` would do: its expectation is the same, since `X - sum pA pB = sum rA rB + pA rB + rA pB`.
But a fit carries an error `d` (shrinkage by the penalty, noise of the rates). In `sum pA pB` it enters in
first order, as `sum p dB`; in the product of residuals only as `sum dA dB`, of second order, where noise of
one run meets noise of the other and drops out. (The generalised covariance measure: Shah and Peters, The
hardness of conditional independence testing, Annals of Statistics 2020, section 3.) For chance and for rates
by magnitude the two forms are equal to the digit, since those rates are fitted without a penalty.

A fit has also seen the mask that it is compared with. With `H` its hat matrix, `r = (1 - H) e`, and for
runs of one structure the trace of `(1 - H)(1 - H)` is that of `1 - H`: a product of residuals keeps the
share `1 - h(i,j)` of a common part, with `h` the leverage of a weight. Hence for correlated changes `f =
sum s / sum s(1 - h)`, with `s = sqrt(pA(1-pA) pB(1-pB))`, and the variance of `sum rA rB` is estimated by
`sum (rA rB)^2 / (1 - h)` (HC2, MacKinnon and White, Journal of Econometrics 1985): somewhat too much where
much is shared, since the squares of the means are left in. The leverage of an additive fit is taken as `1 -
(1 - h_key)(1 - h_row)(1 - h_column)`, each `p(1-p)` over the information on that effect, exact where the
three are orthogonal. In matrices of models `h` is near 0 and `f` near 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt16
from numba import njit

from scramble.measures.updates.row_column import RowColumnFit

MOST_LEVERAGE = 0.95


@dataclass(frozen=True)
class RowColumnCounts:
    """What one matrix of two runs adds to the row and column baseline. All of it sums over tensors.

    Attributes:
        row_column_matched: expected intersection, in weights.
        row_column_matched_a, row_column_matched_b: expected changes of each run.
        row_column_matched_variance: of the coordinate-level part.
        row_column_matched_covariance: of the coordinate-level part and the overlap above chance.
        above_chance_variance: of the overlap above chance, under the fits rather than under chance.
    """

    row_column_matched: float
    row_column_matched_a: float
    row_column_matched_b: float
    row_column_matched_variance: float
    row_column_matched_covariance: float
    above_chance_variance: float


@dataclass(frozen=True)
class FittedRun:
    """One run's mask on a matrix, the magnitude keys of its start, and the fit of the one to the other."""

    mask: Bool[np.ndarray, "rows columns"]
    key: UInt16[np.ndarray, "rows columns"]
    fit: RowColumnFit


def row_column_counts(a: FittedRun, b: FittedRun) -> RowColumnCounts:
    """Count one matrix of two runs. The starts may differ, as in the raw frame they do."""
    sides = [_side(one) for one in (a, b)]
    found = _sums(*sides[0], *sides[1])
    both, expected_a, expected_b, residual, scale, kept, square, mixed, whole = found
    factor = scale / kept if kept > 0 else 1.0
    return RowColumnCounts(
        row_column_matched=both - factor * residual,
        row_column_matched_a=expected_a,
        row_column_matched_b=expected_b,
        row_column_matched_variance=factor**2 * square,
        row_column_matched_covariance=factor * mixed,
        above_chance_variance=whole,
    )


def _side(run: FittedRun) -> tuple[np.ndarray, ...]:
    fit = run.fit
    odds = np.exp(fit.keys), np.exp(fit.rows), np.exp(fit.columns)
    uncertain = 1 / fit.key_information, 1 / fit.row_information, 1 / fit.column_information
    return np.ascontiguousarray(run.mask), np.ascontiguousarray(run.key), *odds, *uncertain


@njit(nogil=True, cache=True)
def _sums(  # type: ignore[no-untyped-def]
    mask_a, key_a, keys_a, rows_a, columns_a, dk_a, dr_a, dc_a,
    mask_b, key_b, keys_b, rows_b, columns_b, dk_b, dr_b, dc_b,
):  # fmt: skip
    """Sums over the weights; `keys`, `rows`, `columns` are odds, `d*` one over the information."""
    n, m = mask_a.shape
    changed_a, changed_b = 0, 0
    for i in range(n):
        for j in range(m):
            changed_a += mask_a[i, j]
            changed_b += mask_b[i, j]
    density_a, density_b = changed_a / max(n * m, 1), changed_b / max(n * m, 1)
    both, expected_a, expected_b, residual = 0.0, 0.0, 0.0, 0.0
    scale, kept = 0.0, 0.0
    square, mixed, whole = 0.0, 0.0, 0.0
    for i in range(n):
        for j in range(m):
            ka, kb = key_a[i, j], key_b[i, j]
            p = 1 - 1 / (1 + keys_a[ka] * rows_a[i] * columns_a[j])
            q = 1 - 1 / (1 + keys_b[kb] * rows_b[i] * columns_b[j])
            u, v = p * (1 - p), q * (1 - q)
            h = 0.5 * (1 - (1 - u * dk_a[ka]) * (1 - u * dr_a[i]) * (1 - u * dc_a[j]))
            h += 0.5 * (1 - (1 - v * dk_b[kb]) * (1 - v * dr_b[i]) * (1 - v * dc_b[j]))
            free = 1 - min(h, MOST_LEVERAGE)
            x, y = mask_a[i, j] - p, mask_b[i, j] - q
            product = x * y
            counted = product / np.sqrt(free)
            # What varies of (M - density)(M - density): all of it but the product of the fitted parts.
            above = counted + x * (q - density_b) + y * (p - density_a)
            both += mask_a[i, j] & mask_b[i, j]
            expected_a += p
            expected_b += q
            residual += product
            deviation = np.sqrt(u * v)
            scale += deviation
            kept += deviation * free
            square += counted * counted
            mixed += counted * above
            whole += above * above
    return both, expected_a, expected_b, residual, scale, kept, square, mixed, whole
