"""Simulated runs of one matrix; the true parts of their overlap are known from the probabilities.

A run changes weight (i,j) with probability `p(i,j)`. With `common > 0` both runs take that share of their
weights from one mask drawn from the same `p`, so that changes at one place correlate by `common^2` and the
expected intersection is `sum p^2 + common^2 p(1-p)`, while rates by magnitude, row and column stay `p`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import expit, ndtr

from scramble.architecture.axes import Array
from scramble.checkpoints.storage import float32_to_bf16
from scramble.measures.pairs.bits import KEYS
from scramble.measures.pairs.masks import magnitude_key
from scramble.measures.updates.coordinate import FittedRun, row_column_counts
from scramble.measures.updates.ratios import decomposition
from scramble.measures.updates.row_column import fit_row_column

STARTS = ("normal", "uniform", "log-normal", "mixture")


def starts(kind: str, shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """Weights drawn in float32 and rounded to bf16."""
    normal = rng.standard_normal(shape)
    values = {
        "normal": 0.02 * normal,
        "uniform": rng.uniform(-0.05, 0.05, shape),
        "log-normal": np.exp(1.5 * normal - 4.5) * rng.choice([-1, 1], shape),
        "mixture": np.where(rng.random(shape) < 0.002, 0, normal * rng.choice([0.01, 0.02, 0.05], shape)),
    }[kind]
    return float32_to_bf16(values.astype(np.float32))


def rounding_rates(words: Array, density: float) -> Array:
    """How often a Gaussian step, as large as to reach the density, survives rounding to the nearest bf16.

    A step is lost below half an ULP; below a power of two, a quarter. Zeros always change.
    """
    exponent = np.maximum(words >> 7 & 0xFF, 1).astype(int)
    half = np.ldexp(1.0, exponent - 135)
    inward = np.where((words & 0x7F == 0) & (exponent > 1), half / 2, half)
    zero = (words & 0x7FFF) == 0

    def rates(log_size: float) -> Array:
        size = np.exp(log_size)
        return np.where(zero, 1.0, ndtr(-half / size) + ndtr(-inward / size))

    return rates(brentq(lambda x: float(rates(x).mean()) - density, -25, 5))


@dataclass(frozen=True)
class Process:
    """Probabilities of change of two runs on one start."""

    words: Array
    p: Array
    common: float = 0.0

    def truth(self) -> dict[str, float]:
        """Expected above chance and its parts, in weights, and the shares: from the probabilities alone."""
        p, key = self.p, magnitude_key(self.words)
        counts = np.bincount(key.ravel(), minlength=KEYS)
        by_key = (np.bincount(key.ravel(), p.ravel(), minlength=KEYS) / np.maximum(counts, 1))[key]
        parts = {
            "magnitude": float((by_key**2).sum() - p.size * p.mean() ** 2),
            "row_column": float((p**2).sum() - (by_key**2).sum()),
            "coordinate": float(self.common**2 * (p * (1 - p)).sum()),
        }
        whole = sum(parts.values())
        return parts | {f"{name}_share": part / whole for name, part in parts.items()}

    def masks(self, rng: np.random.Generator) -> tuple[Array, Array]:
        shared = rng.random(self.p.shape) < self.p

        def run() -> Array:
            own = rng.random(self.p.shape) < self.p
            return np.where(rng.random(self.p.shape) < self.common, shared, own) if self.common else own

        return run(), run()

    def decompositions(self, repetitions: int, rng: np.random.Generator) -> pd.DataFrame:
        """A decomposition a repetition."""
        key = magnitude_key(self.words)
        return decomposition(pd.DataFrame([_counts(*self.masks(rng), key) for _ in range(repetitions)]))


def with_coordinate_share(words: Array, p: Array, share: float) -> Process:
    """Runs with so many common places that the coordinate-level part has this share."""
    above = float(((p - p.mean()) ** 2).sum())
    return Process(words, p, float(np.sqrt(share / (1 - share) * above / (p * (1 - p)).sum())))


def with_row_share(words: Array, share: float, rng: np.random.Generator) -> Process:
    """Runs whose rows differ so much that the row and column part has this share."""
    row, log_odds = rng.standard_normal((words.shape[0], 1)), logit_by_exponent(words)

    def process(size: float) -> Process:
        return Process(words, expit(log_odds + size * row))

    found = brentq(lambda size: process(size).truth()["row_column_share"] - share, 0, 6)
    return process(float(found))


def logit_by_exponent(words: Array, slope: float = 0.6) -> Array:
    """Log-odds of change that fall with the exponent, about a rate of 0.3."""
    exponent = (words >> 7 & 0xFF).astype(float)
    return -0.9 - slope * (exponent - np.median(exponent))


def coverage(settings: Iterator[tuple[dict[str, object], Process]], repetitions: int) -> pd.DataFrame:
    """How often the intervals hold the true coordinate-level part; the share's where it is given."""
    rows = []
    for labels, process in settings:
        found, truth = process.decompositions(repetitions, np.random.default_rng(1)), process.truth()
        share, part = truth["coordinate_share"], truth["coordinate"]
        holds = found["coordinate_low"].le(part) & found["coordinate_high"].ge(part)
        share_holds = found["coordinate_share_low"].le(share) & found["coordinate_share_high"].ge(share)
        given = found["coordinate_share"].notna()
        mean = found[["magnitude_share", "row_column_share", "coordinate_share"]].mean().to_dict()
        rows.append(
            labels | {"given": given.mean(), "covered": share_holds.where(given, holds).mean()} | mean
        )
    return pd.DataFrame(rows)


def independent(kind: str, density: float) -> Process:
    """Runs with nothing in common but the magnitudes. Where few change, the matrix is larger."""
    shape = (160, 120) if density < 0.05 else (60, 50)
    words = starts(kind, shape, np.random.default_rng(0))
    return Process(words, rounding_rates(words, density))


def _counts(mask_a: Array, mask_b: Array, key: Array) -> dict[str, object]:
    a, b = (FittedRun(mask, key, fit_row_column(mask, key)) for mask in (mask_a, mask_b))
    n, changed_a, changed_b = key.size, int(mask_a.sum()), int(mask_b.sum())
    by_key, moved_a, moved_b = (
        np.bincount(part.ravel(), minlength=KEYS) for part in (key, key[mask_a], key[mask_b])
    )
    return {
        "level": "tensor",
        "layer": 0,
        "module": "m",
        "tensor": "t",
        "run_a": "a",
        "run_b": "b",
        "same_seed": False,
        "frame": "raw",
        "n": n,
        "both": int((mask_a & mask_b).sum()),
        "chance": changed_a * changed_b / n,
        "chance_variance": changed_a * (1 - changed_a / n) * changed_b * (1 - changed_b / n) / n,
        "rounding_only": float("nan"),
        "magnitude_matched": float((moved_a * moved_b / np.maximum(by_key, 1)).sum()),
        **asdict(row_column_counts(a, b)),
    }
