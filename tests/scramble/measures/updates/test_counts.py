"""Counts against plain definitions, written out slowly from reference definitions of each figure."""

from __future__ import annotations

import math
from dataclasses import asdict
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import spearmanr

from scramble.architecture.axes import Array
from scramble.checkpoints import STORAGES
from scramble.checkpoints.storage import bf16_to_float32
from scramble.measures.pairs.masks import changed, magnitude_key, non_finite
from scramble.measures.pairs.streams import ArrayStream, Update
from scramble.measures.updates.counts import PairCounts, pair_counts, update_counts
from scramble.measures.updates.joint import Joint, count
from scramble.measures.updates.ratios import pair_ratios

ALL_WORDS = np.arange(1 << 16, dtype=np.uint16)


def make(start: Array, end: Array) -> Update:
    with np.errstate(invalid="ignore"):
        delta = bf16_to_float32(end) - bf16_to_float32(start)
    return Update(start, end, np.where(np.isfinite(delta), delta, 0).astype(np.float32))


def joint(*runs: Update) -> Joint:
    return count([ArrayStream(run) for run in runs])


def paired(a: Update, b: Update) -> PairCounts:
    return pair_counts(joint(a, b))


def simulated(seed: int, n: int = 4000) -> tuple[Update, Update]:
    """Two runs from one start, with updates that share a part."""
    rng = np.random.default_rng(seed)
    words = (rng.standard_normal(n).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    shared = rng.random(n) < 0.2

    def end() -> Array:
        moved = shared & (rng.random(n) < 0.7) | (rng.random(n) < 0.1)
        return (words + np.where(moved, rng.integers(1, 4, n), 0)).astype(np.uint16)

    return make(words, end()), make(words, end())


@given(hnp.arrays(np.uint16, 200, elements=st.integers(0, 0xFFFF)))
def test_changed_is_that_the_words_differ_but_for_the_sign_of_zero(end: Array) -> None:
    for start in (
        ALL_WORDS[: len(end)],
        ALL_WORDS[-len(end) :],
        np.full_like(end, 0x8000),
        np.zeros_like(end),
    ):
        expected = [
            int(a) != int(b) and not (int(a) & 0x7FFF == 0 and int(b) & 0x7FFF == 0)
            for a, b in zip(start, end, strict=True)
        ]
        assert changed(start, end).tolist() == expected


def test_for_normal_values_changed_is_the_papers_tolerance_rule() -> None:
    normal = ALL_WORDS[((ALL_WORDS >> 7) & 0xFF != 0) & ((ALL_WORDS >> 7) & 0xFF != 0xFF)]
    start = STORAGES["BF16"].decode(normal)
    for step in (0, 1, -1, 17):
        words = (normal.astype(np.int64) + step).clip(0, 0xFFFF).astype(np.uint16)
        end = STORAGES["BF16"].decode(words)
        usable = np.isfinite(end)
        rule = np.abs(end - start) > 1e-3 * np.maximum(np.abs(end), np.abs(start))
        assert (changed(normal, words) == rule)[usable].all()


def test_magnitude_key_separates_exponents_and_powers_of_two() -> None:
    keys = magnitude_key(ALL_WORDS)
    expected = {(int(w) >> 7 & 0xFF, int(w) & 0x7F == 0) for w in ALL_WORDS}
    seen = {}
    for word, key in zip(ALL_WORDS.tolist(), keys.tolist(), strict=True):
        pair = (word >> 7 & 0xFF, word & 0x7F == 0)
        assert seen.setdefault(key, pair) == pair
    assert set(seen.values()) == expected
    assert keys.max() < 512


def test_non_finite_words_are_counted() -> None:
    assert non_finite(ALL_WORDS) == 2 * 128
    assert non_finite(ALL_WORDS) == np.count_nonzero(~np.isfinite(bf16_to_float32(ALL_WORDS)))


def slow_expected(a: Update, b: Update) -> tuple[Fraction, Fraction]:
    """Expected intersection under chance and under magnitude matching, weight by weight, exactly."""
    rates = []
    for run in (a, b):
        seen: dict[tuple[int, bool], list[bool]] = {}
        for s, e in zip(run.start.tolist(), run.end.tolist(), strict=True):
            seen.setdefault((s >> 7 & 0xFF, s & 0x7F == 0), []).append(s != e and bool((s | e) & 0x7FFF))
        rates.append({key: Fraction(sum(moved), len(moved)) for key, moved in seen.items()})
    matched = Fraction(0)
    for s, t in zip(a.start.tolist(), b.start.tolist(), strict=True):
        matched += rates[0][s >> 7 & 0xFF, s & 0x7F == 0] * rates[1][t >> 7 & 0xFF, t & 0x7F == 0]
    n = len(a.start)
    masks = [changed(run.start, run.end) for run in (a, b)]
    return Fraction(int(masks[0].sum()), n) * Fraction(int(masks[1].sum()), n) * n, matched


@given(st.integers(0, 10_000), st.booleans())
def test_pairs_agree_with_the_definitions(seed: int, shuffled: bool) -> None:
    a, b = simulated(seed, 600)
    if shuffled:  # another start, as in a scrambled arm
        order = np.random.default_rng(seed).permutation(600)
        b = Update(b.start[order], b.end[order], b.delta[order])
    found = paired(a, b)
    mask_a, mask_b = changed(a.start, a.end), changed(b.start, b.end)
    assert (found.n, found.changed_a, found.changed_b) == (600, mask_a.sum(), mask_b.sum())
    assert found.both == (mask_a & mask_b).sum()
    chance, matched = slow_expected(a, b)
    assert math.isclose(found.chance, chance, rel_tol=1e-12)
    assert math.isclose(found.magnitude_matched, matched, rel_tol=1e-12)
    row = ratios(found)
    union = (mask_a | mask_b).sum()
    assert math.isclose(row["jaccard"], (mask_a & mask_b).sum() / union)
    assert math.isclose(row["overlap_a"], (mask_a & mask_b).sum() / mask_a.sum())
    assert math.isclose(row["overlap_b"], (mask_a & mask_b).sum() / mask_b.sum())
    p, q = mask_a.mean(), mask_b.mean()
    assert math.isclose(row["chance"], p * q / (p + q - p * q))
    assert math.isclose(row["jaccard_above_chance"], (row["jaccard"] - row["chance"]) / (1 - row["chance"]))
    assert math.isclose(row["phi"], np.corrcoef(mask_a, mask_b)[0, 1], abs_tol=1e-12)
    x, y = a.delta.astype(np.float64), b.delta.astype(np.float64)
    assert math.isclose(row["update_cosine"], x @ y / np.sqrt((x @ x) * (y @ y)), abs_tol=1e-12)
    assert math.isclose(
        row["update_rank_correlation"], spearmanr(np.abs(x), np.abs(y)).statistic, abs_tol=2e-3
    )
    both = (x != 0) & (y != 0)
    assert math.isclose(row["sign_agreement"], (np.sign(x) == np.sign(y))[both].mean())


def ratios(counts: object) -> dict[str, float]:
    labels = {"level": "tensor", "layer": 0, "module": "m", "tensor": "t"}
    labels |= {"run_a": "a", "run_b": "b", "same_seed": False, "frame": "raw"}
    (row,) = pair_ratios(pd.DataFrame([labels | asdict(counts)])).to_dict("records")  # type: ignore[call-overload]
    return row


def test_a_run_overlaps_fully_with_itself_and_nothing_changed_gives_no_ratio() -> None:
    a, _ = simulated(0)
    row = ratios(paired(a, a))
    for name in ("jaccard", "overlap_a", "overlap_b", "phi", "update_cosine", "update_rank_correlation"):
        assert row[name] == pytest.approx(1)
    still = Update(a.start, a.start, np.zeros_like(a.delta))
    row = ratios(paired(still, still))
    assert math.isnan(row["jaccard"])
    assert math.isnan(row["chance"])


@given(st.integers(0, 1000))
def test_updates_independent_given_magnitude_are_matched_and_above_chance(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 200_000
    weights = rng.standard_normal(n).astype(np.float32) * 0.05
    words = (weights.view(np.uint32) >> 16).astype(np.uint16)
    start = bf16_to_float32(words)

    def run() -> Update:
        delta = rng.normal(0, 2e-4, n).astype(np.float32)
        end = start + delta
        rounded = (end.view(np.uint32) + 0x7FFF + ((end.view(np.uint32) >> 16) & 1)) >> 16
        return Update(words, rounded.astype(np.uint16), delta)

    row = ratios(paired(run(), run()))
    assert abs(row["jaccard_above_magnitude_matched"]) < 0.02
    assert row["jaccard_above_chance"] > 0.1


def test_update_counts_are_sums() -> None:
    a, _ = simulated(1)
    found = update_counts(joint(a))
    assert found.changed == changed(a.start, a.end).sum()
    assert found.n == 4000
    assert math.isclose(found.update_square, (a.delta.astype(np.float64) ** 2).sum())
    assert math.isclose(found.start_square, (bf16_to_float32(a.start).astype(np.float64) ** 2).sum())


def test_rounding_alone_explains_updates_that_are_blind_to_the_weight() -> None:
    rng = np.random.default_rng(0)
    words = (rng.standard_normal(200_000).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    start = bf16_to_float32(words)
    runs = []
    for _ in range(2):
        delta = (rng.standard_normal(len(words)) * 1e-3).astype(np.float32)
        end = STORAGES["BF16"].encode((start + delta).astype(np.float64))
        runs.append(Update(words, end, delta))
    row = ratios(paired(*runs))
    assert row["jaccard"] > row["chance"] + 0.1
    assert abs(row["jaccard"] - row["rounding_only"]) < 0.005
    assert abs(row["jaccard_above_rounding_only"]) < 0.01
    blunt = [Update(run.start, run.end, run.delta, fine=False) for run in runs]
    assert np.isnan(ratios(paired(*blunt))["rounding_only"])
