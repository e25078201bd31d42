"""Intervals of a mean over pairs of runs, from leaving out one run at a time.

Pairs that share a run are not independent, so neither the number of pairs nor of weights says how well a mean
over pairs is known: the number of runs does. The mean over pairs is a U-statistic of order two, and the
jackknife over runs estimates its variance (Arvesen, Jackknifing U-statistics, Annals of Mathematical Statistics
1969): with `u(-i)` the mean without run `i` of an arm of `m` runs, `(m - 1) / m sum (u(-i) - mean)^2`. For
pairs across two arms the variances of the arms are added. The interval is the mean plus or minus a quantile of
Student's t, with `m - 1` degrees of freedom within an arm and of the smaller arm across two. A percentile
bootstrap over runs draws a run several times, has too few distinct draws of four runs, and is too narrow.

It holds for the runs of this one start and scramble; what another draw of the scramble would add, it cannot see.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import t as student

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
    table = pairs[values].astype(np.float64)
    mean = table.mean(skipna=False)
    if within:
        arms = [[pairs["run_a"], pairs["run_b"]]]
    else:
        arms = [[pairs["run_a"]], [pairs["run_b"]]]
    variance, fewest = pd.Series(0.0, index=values), None
    for sides in arms:
        runs = list(dict.fromkeys(run for side in sides for run in side))
        if len(runs) < ENOUGH_RUNS:
            return pd.DataFrame({"mean": mean, "low": np.nan, "high": np.nan})
        without = pd.DataFrame(
            [table[~np.logical_or.reduce([side == run for side in sides])].mean(skipna=False) for run in runs]
        )
        off = without - without.mean(skipna=False)
        variance = variance + (len(runs) - 1) / len(runs) * (off**2).sum(skipna=False)
        fewest = len(runs) if fewest is None else min(fewest, len(runs))
    margin = student.ppf(0.975, (fewest or 0) - 1) * np.sqrt(variance)
    return pd.DataFrame({"mean": mean, "low": mean - margin, "high": mean + margin})
