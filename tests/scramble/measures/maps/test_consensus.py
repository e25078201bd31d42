"""Consensus of runs: agreement with the definition, weight by weight and outcome by outcome."""

from __future__ import annotations

import shutil
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open

from scramble.errors import MismatchError
from scramble.measures.geometry.mask_file import read_masks
from scramble.measures.maps.consensus import consensus, count_consensus, poisson_binomial
from scramble.measures.pairs.ends import CheckpointPair, Frame, ends, open_run
from scramble.measures.pairs.selection import Selection
from scramble.operations.apply import apply
from tests.conftest import Command
from tests.fake_runs import train, transported
from tests.models import Tiny, edit_config, weights
from tests.training import swept

ALL = Selection(embeddings=True)


def slow_poisson_binomial(p: list[float]) -> list[float]:
    """Over all outcomes of the events."""
    found = [0.0] * (len(p) + 1)
    for outcome in product((0, 1), repeat=len(p)):
        found[sum(outcome)] += float(np.prod([q if o else 1 - q for o, q in zip(outcome, p, strict=True)]))
    return found


@given(hnp.arrays(float, st.tuples(st.integers(1, 6), st.integers(1, 4)), elements=st.floats(0, 1)))
def test_poisson_binomial(p: np.ndarray) -> None:
    found = poisson_binomial(p)
    want = np.array([slow_poisson_binomial(list(one)) for one in p.T]).T
    np.testing.assert_allclose(found, want, atol=1e-14)


def slow(runs: list[CheckpointPair], name: str, frame: Frame) -> dict[str, np.ndarray]:
    """The definition on one tensor: a weight at a time, exponents and mantissas from float32."""
    updates = [run.read(name, frame) for run in runs]
    start = [(one.start.astype(np.uint32) << 16).view(np.float32).ravel() for one in updates]
    end = [(one.end.astype(np.uint32) << 16).view(np.float32).ravel() for one in updates]
    masks = [old != new for old, new in zip(start, end, strict=True)]
    p = []
    for old, mask in zip(start, masks, strict=True):
        mantissa, exponent = np.frexp(old)
        key = [
            (e, abs(m) == 0.5) if m else None
            for m, e in zip(mantissa.tolist(), exponent.tolist(), strict=True)
        ]
        held, moved = Counter(key), Counter(one for one, hit in zip(key, mask, strict=True) if hit)
        p.append([moved[one] / held[one] for one in key])
    n = len(start[0])
    return {
        "count": np.array(
            [sum(sum(m[i] for m in masks) == c for i in range(n)) for c in range(len(runs) + 1)]
        ),
        "chance": n * np.array(slow_poisson_binomial([float(mask.mean()) for mask in masks])),
        "magnitude_matched": sum(np.array(slow_poisson_binomial([q[i] for q in p])) for i in range(n)),
    }


def compare(runs: list[CheckpointPair], frame: Frame, name: str, counts: pd.DataFrame) -> None:
    found = counts[counts["tensor"] == name]
    assert found["changed_by"].tolist() == list(range(len(runs) + 1))
    for column, want in slow(runs, name, frame).items():
        np.testing.assert_allclose(found[column], want, rtol=1e-9, atol=1e-9, err_msg=column)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("family", ["phi3", "gpt2", "qwen2"])
def test_counts_are_those_of_the_definition(tmp_path: Path, family: str, dtype: torch.dtype) -> None:
    base = Tiny(family, 2, 2, 8, layers=1, seed=1).save(tmp_path / "base", torch.bfloat16)
    runs = [ends(base, train(base, tmp_path / f"{seed}", seed, dtype)) for seed in range(3)]
    counts = count_consensus(runs, "raw", ALL)
    assert set(counts["tensor"]) == set(runs[0].tensors)
    vectors = [name for name in runs[0].tensors if len(runs[0].start.tensors[name].shape) == 1]
    fused = [name for name in runs[0].tensors if "qkv_proj" in name or "c_attn.weight" in name]
    assert fused or family == "qwen2"
    for name in [*vectors[:3], *fused, next(name for name in runs[0].tensors if "mlp" in name)]:
        compare(runs, "raw", name, counts)


def test_pooled_rows_are_sums_over_tensors(texts: list[str]) -> None:
    counts = count_consensus([open_run(text) for text in texts], "raw", Selection())
    found = consensus(counts, ["model", "layer", "module", "tensor"])
    for column in ("share", "chance", "magnitude_matched"):
        whole = found.groupby(["level", "layer", "module", "tensor"], dropna=False)[column].sum()
        np.testing.assert_allclose(whole, 1)
    for level, columns in (("model", []), ("layer", ["layer"]), ("module", ["module"])):
        for _, row in found[found["level"] == level].iterrows():
            held = counts[counts["changed_by"] == row["changed_by"]]
            for column in columns:
                held = held[held[column].isna() if row[column] is pd.NA else held[column] == row[column]]
            assert row["n"] == held["n"].sum()
            assert row["share"] == pytest.approx(held["count"].sum() / held["n"].sum())
            assert row["magnitude_matched"] == pytest.approx(
                held["magnitude_matched"].sum() / held["n"].sum()
            )


@pytest.fixture
def arms(tmp_path: Path) -> list[str]:
    """A run of a base, and runs of its scrambled self: the same training, and another."""
    base = Tiny("llama", 3, 2, 8, layers=2, seed=4).save(tmp_path / "base", torch.bfloat16)
    start = tmp_path / "start"
    apply(base, start, layers="1", symmetries=("vo-rotation", "head-permutation"))
    end = train(base, tmp_path / "end", 0)
    moved = transported(base, start, end, tmp_path / "moved")
    return [f"{base}:{end}", f"{start}:{moved}", f"{start}:{train(start, tmp_path / 'other', 2)}"]


ROTATED = "model.layers.1.self_attn.o_proj.weight"


def test_a_scrambled_arm_in_both_frames(arms: list[str], command: Command) -> None:
    runs = [open_run(text, aligned=True) for text in arms]
    for frame in ("raw", "aligned"):
        counts = count_consensus(runs, frame, Selection("1"))
        for name in (ROTATED, "model.layers.1.self_attn.q_proj.weight", "model.layers.1.mlp.up_proj.weight"):
            compare(runs, frame, name, counts)
    ask = ("consensus", *arms[:2], "--by", "tensor", "--layers", "1", "--format", "json", "--quiet")
    one = {}
    for frame in ("raw", "aligned"):
        found = command(*ask, "--frame", frame)
        assert (found.code, found.err) == (0, "")
        rows = [row for row in found.json["rows"] if row["tensor"] == ROTATED]
        assert {row["frame"] for row in rows} == {frame}
        one[frame] = next(row["share"] for row in rows if row["changed_by"] == 1)
    assert one["aligned"] < 0.02 < one["raw"]


def test_starts_that_are_off_the_grid_are_matched_by_their_place_between_two_words(tmp_path: Path) -> None:
    base = Tiny("llama", 1, 2, 8, layers=1, seed=4).save(tmp_path / "base", torch.float32)
    runs = [ends(base, train(base, tmp_path / f"{seed}", seed)) for seed in range(2)]
    found = consensus(count_consensus(runs, "raw", Selection()), ["model"])
    assert found["magnitude_matched"].sum() == found["chance"].sum() == pytest.approx(1)
    # The updates are noise: rounding is all that the runs share.
    matched, chance = (np.abs(found["share"] - found[name]).sum() for name in ("magnitude_matched", "chance"))
    assert matched < chance / 2


def test_runs_of_two_bases_share_no_frame(tmp_path: Path) -> None:
    runs = []
    for seed in (4, 5):
        base = Tiny("llama", 3, 1, 8, layers=1, seed=seed).save(tmp_path / f"base{seed}", torch.bfloat16)
        start = tmp_path / f"start{seed}"
        apply(base, start, layers="0", symmetries=("head-permutation",))
        runs.append(ends(start, train(start, tmp_path / f"end{seed}", 1, torch.bfloat16), aligned=True))
    with pytest.raises(MismatchError, match="not come from one base"):
        count_consensus(runs, "aligned", Selection())


def test_masks_are_written_and_read_back(texts: list[str], command: Command, tmp_path: Path) -> None:
    path = tmp_path / "masks.safetensors"
    ask = ("consensus", *texts, "--write", path, "--embeddings", "--quiet")
    assert command(*ask).code == 0
    runs = [open_run(text) for text in texts]
    masks = read_masks(path)
    assert set(masks) == {f"{number}/{name}" for number in range(3) for name in runs[0].tensors}
    for key, mask in masks.items():
        number, _, name = key.partition("/")
        run = runs[int(number)]
        old, new = (weights(end.folder)[name] for end in (run.start, run.end))
        assert np.array_equal(mask, (old != new).numpy()), key
    with safe_open(path, "numpy") as file:
        assert [name in file.metadata()["runs"] for name in (run.name for run in runs)] == [True] * 3
    again = command(*ask)
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert command(*ask, "--force").code == 0


@pytest.mark.parametrize("suffix", swept(["svg", "png"], kept=1))
def test_maps_are_drawn(texts: list[str], command: Command, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"maps.{suffix}"
    found = command(
        "consensus", *texts, "--plot", path, "--layers", "1", "--table", tmp_path / "t.csv", "--quiet"
    )
    assert (found.code, found.err) == (0, "")
    content = path.read_bytes()
    assert content.startswith(b"<svg" if suffix == "svg" else b"\x89PNG")
    assert len(pd.read_csv(tmp_path / "t.csv")["changed_by"].unique()) == 4


def test_a_family_without_a_table_has_maps_without_heads(
    texts: list[str], command: Command, tmp_path: Path
) -> None:
    for folder in {part for text in texts for part in text.split(":")}:
        edit_config(Path(folder), model_type="unheard_of")
    assert (
        command("consensus", *texts, "--plot", tmp_path / "f.png", "--modules", "q_proj", "--quiet").code == 0
    )


def test_updates_that_are_zero_are_counted_and_drawn(
    checkpoint: Path, texts: list[str], command: Command, tmp_path: Path
) -> None:
    other = tmp_path / "same"
    shutil.copytree(checkpoint, other)
    runs = [f"{checkpoint}:{checkpoint}", f"{checkpoint}:{other}"]
    ask = ("consensus", *runs, "--by", "model", "--modules", "q_proj", "--format", "json", "--quiet")
    found = command(*ask, "--plot", tmp_path / "f.png")
    assert (found.code, found.err) == (0, "")
    assert [row["share"] for row in found.json["rows"]] == [1, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--frame", "both"], "raw or aligned"),
        (["--frame", "aligned"], "no START carries a scramble.json"),
        (["--modules", "q"], "no tensor 'q' here; there are"),
        (["--layers", "9"], "outside this model's layers 0 to 1"),
        (["--by", "head"], "--by head"),
        (["--plot", "figure.pdf"], ".svg or .png"),
        (["--write", "no/masks.safetensors"], "does not exist"),
        (["--modules", "input_layernorm", "--plot", "figure.png"], "no matrix 'input_layernorm'"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(
    texts: list[str], command: Command, arguments: list[str], says: str
) -> None:
    found = command("consensus", *texts, *arguments)
    assert (found.code, found.err.count("\n"), found.out) == (2, 1, "")
    assert says in found.err


def test_one_run_a_run_twice_and_other_models_are_refused(
    texts: list[str], command: Command, tmp_path: Path
) -> None:
    other = Tiny("qwen2", 2, 2, 8, layers=1).save(tmp_path / "model2", torch.bfloat16)
    cases = (
        ([texts[0]], "two runs or more"),
        ([texts[0]] * 2, "every run once"),
        (
            [texts[0], f"{other}:{other}"],
            "is in only one of them",
        ),
    )
    for arguments, says in cases:
        found = command("consensus", *arguments, "--quiet")
        assert (found.code, found.err.count("\n"), found.out) == (2, 1, "")
        assert says in found.err


def test_more_matrices_than_a_figure_shows_are_refused(
    texts: list[str], command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scramble.measures.maps.figures.MOST_MAPS", 13)
    found = command("consensus", *texts, "--plot", tmp_path / "f.png", "--quiet")
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert "14 matrices" in found.err
    assert not (tmp_path / "f.png").exists()
