"""The one-pass engine against plain definitions, on random and on adversarial weights."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import save_file
from scipy.stats import spearmanr

from scramble.architecture.axes import Array
from scramble.checkpoints import STORAGES
from scramble.checkpoints.shard import read_shard
from scramble.checkpoints.storage import bf16_to_float32, float32_to_bf16
from scramble.errors import SelectionError
from scramble.measures.pairs.masks import magnitude_key
from scramble.measures.pairs.streams import ArrayStream, FileStream, Stream, Update
from scramble.measures.updates import joint as engine
from scramble.measures.updates.counts import pair_counts, update_counts
from scramble.measures.updates.joint import Joint, count

EVERY_WORD = np.arange(1 << 16, dtype=np.uint16)


def bf16_update(start: Array, end: Array) -> Update:
    """From stored words alone."""
    with np.errstate(invalid="ignore", over="ignore"):
        delta = bf16_to_float32(end) - bf16_to_float32(start)
    delta[~np.isfinite(delta)] = 0
    return Update(start, end, delta, fine=False)


def fine_update(start: Array, delta: Array, values: Array | None = None) -> Update:
    """From float32 weights; rounded to nearest once."""
    before = bf16_to_float32(start) if values is None else values
    after = before + delta
    return Update(start, float32_to_bf16(after), after - before, values=values)


def streams(*updates: Update) -> list[Stream]:
    return [ArrayStream(update) for update in updates]


def changed_slowly(start: int, end: int) -> bool:
    return start != end and not (start & 0x7FFF == 0 and end & 0x7FFF == 0)


def key_slowly(word: int) -> tuple[int, bool]:
    return word >> 7 & 0xFF, word & 0x7F == 0


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 8), st.sampled_from([1, 7, 300, 1025]))
def test_counts_are_those_of_the_definitions(seed: int, runs: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    start = rng.choice(EVERY_WORD, n)
    ends = [np.where(rng.random(n) < 0.5, start, rng.choice(EVERY_WORD, n)) for _ in range(runs)]
    ends[0][: n // 2] = start[: n // 2] ^ 0x8000  # the sign alone
    updates = [bf16_update(start, end) for end in ends]
    found = count(streams(*updates), one_start=True)
    patterns = [sum(changed_slowly(s, e[i]) << k for k, e in enumerate(ends)) for i, s in enumerate(start)]
    keys = magnitude_key(start)
    expected = Counter(zip(keys.tolist(), patterns, strict=True))
    assert {place: c for place, c in np.ndenumerate(found.counts[0]) if c} == expected
    assert len({(key, key_slowly(int(s))) for key, s in zip(keys.tolist(), start, strict=True)}) == len(
        set(keys)
    )
    for k, end in enumerate(ends):
        assert found.non_finite[k] == np.count_nonzero(~np.isfinite(bf16_to_float32(end)))
    assert found.start_non_finite[0] == np.count_nonzero(~np.isfinite(bf16_to_float32(start)))
    for a, b in combinations(range(runs), 2):
        x, y = (updates[k].delta.astype(np.float64) for k in (a, b))
        assert found.both[a, b] == sum(p >> a & p >> b & 1 for p in patterns)
        assert found.signed[a, b] == np.count_nonzero((x != 0) & (y != 0))
        assert found.same_sign[a, b] == np.count_nonzero(x * np.sign(y) > 0)
        assert found.dots[a, b] == pytest.approx(float(x @ y), rel=1e-9)


def test_every_bf16_word_changes_as_its_bits_do() -> None:
    for step in (0, 1, 0x80, 0x8000, 0xFFFF):
        ends = EVERY_WORD + np.uint16(step)
        found = count(streams(bf16_update(EVERY_WORD, ends)))
        expected = sum(changed_slowly(s, e) for s, e in zip(EVERY_WORD.tolist(), ends.tolist(), strict=True))
        assert update_counts(found).changed == expected
        assert update_counts(found).non_finite == 4 * 128
        assert found.counts.sum() == 1 << 16


def test_the_tolerance_rule_is_the_definition_and_agrees_for_normal_words() -> None:
    rng = np.random.default_rng(0)
    ends = np.where(rng.random(1 << 16) < 0.5, EVERY_WORD, EVERY_WORD + np.uint16(1))
    old, new = (STORAGES["BF16"].decode(one) for one in (EVERY_WORD, ends))
    with np.errstate(invalid="ignore", over="ignore"):
        for eta in (1e-3, 0.1):
            rule = np.abs(new - old) > eta * np.maximum(np.abs(new), np.abs(old))
            found = count(streams(bf16_update(EVERY_WORD, ends)), eta=eta)
            assert update_counts(found).changed == np.count_nonzero(rule)
    normal = ((EVERY_WORD >> 7 & 0xFF) % 0xFF != 0) & ((ends >> 7 & 0xFF) % 0xFF != 0)
    pair = bf16_update(EVERY_WORD[normal], ends[normal])
    assert update_counts(count(streams(pair), eta=1e-3)) == update_counts(count(streams(pair)))


def same(one: Joint, other: Joint) -> None:
    for field in fields(Joint):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name), field.name)


@pytest.mark.parametrize("fine", [False, True])
def test_blocks_and_threads_change_nothing(fine: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    start = float32_to_bf16(rng.standard_normal(5000).astype(np.float32))
    runs = [fine_update(start, rng.normal(0, 3e-3, 5000).astype(np.float32)) for _ in range(3)]
    if not fine:
        runs = [bf16_update(start, run.end) for run in runs]
    whole = count(streams(*runs))
    monkeypatch.setattr(engine, "_BLOCK", 700)
    monkeypatch.setattr(engine, "threads", lambda: 3)
    alone = count(streams(*runs))
    with ThreadPoolExecutor(3) as pool:
        same(alone, count(streams(*runs), pool))
    for name in ("counts", "signed", "same_sign", "non_finite"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(alone, name))
    for name in ("dots", "squares", "passing", "passing_sums", "rank_dots", "matched"):
        np.testing.assert_allclose(getattr(whole, name), getattr(alone, name), rtol=1e-12)


def threshold_slowly(value: float, direction: float) -> float:
    """How far a float32 weight is from the value where it rounds to another bf16, in a direction."""
    words = STORAGES["BF16"]
    word = int(words.encode(np.array([value]))[0])
    sign, size = word & 0x8000, word & 0x7FFF
    outward = size == 0 or direction == 0 or (direction > 0) == (sign == 0)
    other = words.decode(np.array([sign | (size + 1 if outward else size - 1)], dtype=np.uint16))[0]
    middle = (words.decode(np.array([word], dtype=np.uint16))[0] + other) / 2
    return float(abs(middle - value)) if size else float(abs(abs(middle) - abs(value)))


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.booleans())
def test_rounding_only_is_the_share_of_updates_beyond_the_boundary(seed: int, off_grid: bool) -> None:
    rng = np.random.default_rng(seed)
    n = 240
    start = np.concatenate([rng.choice(EVERY_WORD, n - 60), EVERY_WORD[::1092][:60] & 0xFF80])
    start = start[(start >> 7 & 0xFF < 0xFE) & (start >> 7 & 0xFF > 30)]
    n = len(start)
    exact = bf16_to_float32(start)
    values = exact
    if off_grid:
        values = (exact.view(np.uint32) + rng.integers(-0x7FFF, 0x7FFF, n).astype(np.uint32)).view(np.float32)
        np.testing.assert_array_equal(float32_to_bf16(values), start)
    runs = []
    for _ in range(2):
        delta = (np.abs(values) * 2.0 ** rng.uniform(-14, -4, n) * rng.choice([-1, 1], n)).astype(np.float32)
        delta[::7] = np.float32(2.0) ** rng.integers(-40, 3, len(delta[::7]))  # on thresholds
        delta[::11] = 0
        # The end may round as it likes: the baseline knows starts and updates alone.
        runs.append(Update(start, start, delta, values=values if off_grid else None))
    found = pair_counts(count(streams(*runs), one_start=True))
    p = [
        np.array(
            [
                (np.abs(run.delta.astype(np.float64)) > threshold_slowly(float(v), float(d))).mean()
                for v, d in zip(values, run.delta, strict=True)
            ]
        )
        for run in runs
    ]
    # Thresholds of bf16 weights are edges of bins, so they are exact; others fall inside one, 1/128 wide.
    error = {"rel": 1e-9} if not off_grid else {"abs": 0.02 * n, "rel": 0.02}
    assert found.rounding_only_a == pytest.approx(p[0].sum(), **error)
    assert found.rounding_only == pytest.approx(p[0] @ p[1], **error)


def test_rounding_alone_explains_blind_updates_of_fine_starts() -> None:
    rng = np.random.default_rng(2)
    values = (rng.standard_normal(400_000) * 0.05).astype(np.float32)
    start = float32_to_bf16(values)
    runs = [fine_update(start, rng.normal(0, 1e-5, len(values)).astype(np.float32), values) for _ in range(2)]
    found = pair_counts(count(streams(*runs), one_start=True))
    error = 4 * np.sqrt(found.both)
    assert found.both > found.chance + 20 * error
    assert abs(found.both - found.rounding_only) < error
    assert abs(found.both - found.magnitude_matched) < 0.03 * found.both  # cells are an octave wide
    blind = pair_counts(count(streams(*[Update(r.start, r.end, r.delta) for r in runs]), one_start=True))
    assert blind.magnitude_matched < 0.8 * blind.both  # keys of stored words do not see where in the cell


def test_bf16_weights_kept_as_float32_have_the_figures_of_bf16() -> None:
    rng = np.random.default_rng(3)
    start = float32_to_bf16(rng.standard_normal(3000).astype(np.float32))
    runs = [fine_update(start, rng.normal(0, 3e-3, 3000).astype(np.float32)) for _ in range(2)]
    kept = [Update(run.start, run.end, run.delta, values=bf16_to_float32(start)) for run in runs]
    one, two = (pair_counts(count(streams(*some), one_start=True)) for some in (runs, kept))
    for field in fields(one):
        assert getattr(one, field.name) == pytest.approx(getattr(two, field.name), rel=1e-12)


def test_rank_correlation_is_spearmans() -> None:
    rng = np.random.default_rng(4)
    start = float32_to_bf16(rng.standard_normal(5000).astype(np.float32))
    common = rng.standard_normal(5000)
    runs = [
        fine_update(start, ((common + rng.standard_normal(5000)) * 1e-3).astype(np.float32)) for _ in "ab"
    ]
    found = pair_counts(count(streams(*runs), one_start=True))
    correlation = found.rank_covariance / np.sqrt(found.rank_variance_a * found.rank_variance_b)
    expected = spearmanr(np.abs(runs[0].delta), np.abs(runs[1].delta)).statistic
    assert correlation == pytest.approx(expected, abs=1e-3)


def test_runs_from_different_starts_are_matched_by_their_own_magnitudes() -> None:
    rng = np.random.default_rng(5)
    starts = [float32_to_bf16(rng.standard_normal(2000).astype(np.float32)) for _ in range(2)]
    runs = [bf16_update(s, np.where(rng.random(2000) < 0.3, s + np.uint16(1), s)) for s in starts]
    found = count(streams(*runs))
    assert found.which == (0, 1)
    rates = []
    for run in runs:
        keys, moved = magnitude_key(run.start), run.start != run.end
        rates.append(np.array([moved[keys == key].mean() for key in keys]))
    assert found.matched[0, 1] == pytest.approx(rates[0] @ rates[1])


DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}


@pytest.mark.parametrize("before", DTYPES)
@pytest.mark.parametrize("after", DTYPES)
def test_files_give_what_arrays_do(before: str, after: str, tmp_path: Path) -> None:
    from scramble.measures.pairs.ends import CheckpointPair

    torch.manual_seed(0)
    old = torch.randn(300, 7, dtype=torch.float64) * 0.05
    old[0, :3] = torch.tensor([float("nan"), float("inf"), 0.0])
    new = old + torch.randn_like(old) * 2e-4
    save_file({"other": torch.zeros(3), "w": old.to(DTYPES[before])}, tmp_path / "old.safetensors")
    save_file({"w": new.to(DTYPES[after])}, tmp_path / "new.safetensors")
    entries = [read_shard(tmp_path / f"{name}.safetensors").tensors["w"] for name in ("old", "new")]

    class Folder:
        def __init__(self, entry: object) -> None:
            self.entry = entry

        def storage(self, name: str) -> object:
            return self.entry.storage  # type: ignore[attr-defined]

        def words(self, name: str) -> Array:
            return self.entry.words()  # type: ignore[attr-defined]

    run = CheckpointPair(Folder(entries[0]), Folder(entries[1]), "end")  # type: ignore[arg-type]
    update = run.read("w", "raw")
    same(count([FileStream(*entries)]), count([ArrayStream(update)]))


def test_an_empty_tensor_counts_for_nothing(tmp_path: Path) -> None:
    save_numpy({"w": np.zeros((0, 4), np.float32)}, tmp_path / "w.safetensors")
    entry = read_shard(tmp_path / "w.safetensors").tensors["w"]
    found = count([FileStream(entry, entry), FileStream(entry, entry)])
    assert (found.n, pair_counts(found).both, pair_counts(found).chance) == (0, 0, 0)


def test_more_than_eight_runs_are_refused() -> None:
    one = bf16_update(EVERY_WORD, EVERY_WORD)
    with pytest.raises(SelectionError, match="at most 8"):
        count(streams(*[one] * 9))


@pytest.mark.parametrize("density", [0.0, 0.05, 0.3, 0.9])
def test_few_and_many_changes_are_counted_alike(density: float, tmp_path: Path) -> None:
    """From words alone, blocks with few changes are thinned out first; updates given as numbers are not."""
    rng = np.random.default_rng(6)
    start = rng.choice(EVERY_WORD, 5000)
    ends = [np.where(rng.random(5000) < density, rng.choice(EVERY_WORD, 5000), start) for _ in range(3)]
    for name, words in zip(("start", "a", "b", "c"), (start, *ends), strict=True):
        values = torch.from_numpy(words.view(np.int16)).view(torch.bfloat16)
        save_file({"w": values}, tmp_path / f"{name}.safetensors")
    entries = [read_shard(tmp_path / f"{name}.safetensors").tensors["w"] for name in ("start", "a", "b", "c")]
    found = count([FileStream(entries[0], one) for one in entries[1:]])
    expected = count(streams(*[bf16_update(start, end) for end in ends]), one_start=True)
    for name in ("counts", "non_finite", "signed", "same_sign", "fine"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)
    np.testing.assert_allclose(found.dots, expected.dots, rtol=1e-12)
    np.testing.assert_array_equal(found.squares, expected.squares)
