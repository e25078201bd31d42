"""Intervals of a mean over pairs of runs, from leaving out one run at a time.

Pairs that share a run are not independent, so neither the number of pairs nor of weights says how well a
mean over pairs is known: the number of runs does. The mean over pairs is a U-statistic of order two, and
the jackknife over runs estimates its variance (Arvesen, Jackknifing U-statistics, Annals of Mathematical
Statistics 1969): with `u(-i)` the mean without run `i` of an arm of `m` runs, `(m - 1) / m sum (u(-i) -
mean)^2`. For pairs across two arms the variances of the arms are added. The interval is the mean plus or
minus a quantile of Student's t, with `m - 1` degrees of freedom within an arm and of the smaller arm across
two. A percentile bootstrap over runs draws a run several times, has too few distinct draws of four runs,
and is too narrow.

It holds for the runs of this one start and scramble; what another draw of the scramble would add, it cannot
see.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

ENOUGH_RUNS = 4


def resampled(pairs: pd.DataFrame, values: list[str], *, within: bool) -> pd.DataFrame:
    """95 % intervals of means over pairs.

    Args:
        pairs: a row a pair of runs, `run_a`, `run_b` and the values. Missing pairs are left out of the means.
        values: columns to average.
        within: whether both runs of a pair come from one arm; else `run_a` and `run_b` are of two arms.

    Returns:
        A row a value (the index): `mean`, `low`, `high`. The ends are NaN where an arm has fewer than
        `ENOUGH_RUNS` runs, or where some run stands in every pair, and the mean is NaN where a value is.
    """
    from scipy.special import stdtrit  # scipy.stats takes half a second to load

    table = pairs[values].to_numpy(dtype=np.float64)
    total, mean = table.sum(axis=0), table.mean(axis=0)
    sides = [pairs["run_a"].to_numpy(), pairs["run_b"].to_numpy()]
    variance, fewest = np.zeros(len(values)), np.inf
    for arm in [sides] if within else [[side] for side in sides]:
        names, codes = np.unique(np.concatenate(arm), return_inverse=True)
        held, counts = np.zeros((len(names), len(values))), np.bincount(codes, minlength=len(names))
        np.add.at(held, codes, np.concatenate([table] * len(arm)))
        if len(names) < ENOUGH_RUNS or (counts == len(table)).any():
            variance, fewest = np.full(len(values), np.nan), 2.0
            break
        without = (total - held) / (len(table) - counts)[:, None]
        off = without - without.mean(axis=0)
        variance = variance + (len(names) - 1) / len(names) * (off**2).sum(axis=0)
        fewest = min(fewest, len(names))
    margin = stdtrit(fewest - 1, 0.975) * np.sqrt(variance)
    return pd.DataFrame({"mean": mean, "low": mean - margin, "high": mean + margin}, index=values)
