"""Rates by row and column: profiles, scores and correlations against their definitions; the command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import pearsonr, spearmanr

from scramble.measures.maps.rates import (
    checkpoints_of,
    classes,
    correlations,
    measure,
    smoothed,
    stripe_scores,
)
from scramble.measures.pairs.ends import ends, open_run
from scramble.measures.pairs.selection import Selection
from tests.conftest import Command
from tests.fake_runs import train
from tests.models import Tiny, weights
from tests.training import swept

Q = "model.layers.1.self_attn.q_proj.weight"


def masks(text: str) -> dict[str, np.ndarray]:
    start, end = (weights(Path(folder)) for folder in text.split(":"))
    return {name: (start[name] != end[name]).numpy() for name in start}


def keys(start: Path, name: str) -> np.ndarray:
    """Exponent and whether the mantissa is zero, weight by weight, as one number each."""
    values = weights(start)[name].double().numpy()
    mantissa, exponent = np.frexp(values)
    return np.where(values == 0, -9999, 2 * exponent + (np.abs(mantissa) == 0.5))


def test_profiles_are_means_of_the_mask(texts: list[str]) -> None:
    profiles, _ = measure([open_run(text) for text in texts], Selection())
    want = {text.split(":")[1]: masks(text) for text in texts}
    assert len(profiles) == 14 * 2 * 3
    for one in profiles:
        mask = want[one.checkpoint][one.tensor]
        np.testing.assert_allclose(one.rate, mask.mean(axis=1 if one.side == "row" else 0))


@pytest.mark.parametrize("family", ["gpt2", "phi3"])
def test_scores_and_expected_profiles_are_those_of_the_definition(tmp_path: Path, family: str) -> None:
    base = Tiny(family, 2, 2, 8, layers=1, seed=1).save(tmp_path / "base", torch.bfloat16)
    text = f"{base}:{train(base, tmp_path / 'end', 0, torch.bfloat16)}"
    run = open_run(text)
    profiles, counts = measure([run], Selection())
    table = stripe_scores(counts, ["tensor"]).set_index(["tensor", "side", "baseline"])
    matrices = {name for name in run.tensors if len(run.start.tensors[name].shape) == 2}
    assert {one.tensor for one in profiles} == {
        name for name in matrices if ".h." in name or "layers" in name
    }
    for one in profiles:
        mask, key = masks(text)[one.tensor], keys(base, one.tensor)
        if one.side == "column":
            mask, key = mask.T, key.T
        matched = np.zeros(mask.shape)
        for value in np.unique(key):
            matched[key == value] = mask[key == value].mean()
        np.testing.assert_allclose(one.expected, matched.mean(axis=1))
        for baseline, p in (("chance", np.full(mask.shape, mask.mean())), ("magnitude_matched", matched)):
            row = table.loc[(one.tensor, one.side, baseline)]
            # Hypergeometric variances, class by class.
            variance = np.zeros(len(mask))
            for value in np.unique(key if baseline != "chance" else np.zeros_like(key)):
                held = (key == value) if baseline != "chance" else np.ones_like(mask)
                n, q = held.sum(), mask[held].mean()
                here = held.sum(axis=1)
                variance += here * q * (1 - q) * (n - here) / max(n - 1, 1)
            excess = (mask.sum(axis=1) - p.sum(axis=1)) ** 2
            assert row["score"] == pytest.approx(excess.sum() / variance.sum())
            assert row["lines"] == len(mask)
            assert row["rate"] == pytest.approx(mask.mean())
            beyond = ((excess - variance) / mask.shape[1] ** 2).mean()
            assert row["excess_sd"] == pytest.approx(np.sqrt(max(beyond, 0)))
            assert row["z"] == pytest.approx((row["score"] - 1) / row["null_sd"])
            assert 0 <= row["p"] <= 1


def test_pooled_scores_are_ratios_of_sums(texts: list[str]) -> None:
    _, counts = measure([open_run(texts[0])], Selection(modules=("q_proj", "up_proj")))
    found = stripe_scores(counts, ["model", "module", "layer-module"])
    assert len(found) == (1 + 2 + 4) * 4
    for _, row in found.iterrows():
        here = counts[(counts["side"] == row["side"]) & (counts["baseline"] == row["baseline"])]
        for column in ("layer", "module"):
            here = here if pd.isna(row[column]) else here[here[column] == row[column]]
        assert row["score"] == pytest.approx(here["excess"].sum() / here["expected"].sum())
        assert row["null_sd"] == pytest.approx(np.sqrt(here["spread"].sum()) / here["expected"].sum())


def test_a_start_off_the_grid_is_matched_by_its_place_between_two_words(tmp_path: Path) -> None:
    base = Tiny("llama", 1, 2, 8, layers=1, seed=4).save(tmp_path / "base", torch.float32)
    profiles, _ = measure([ends(base, train(base, tmp_path / "end", 0))], Selection())
    for one in profiles:
        assert one.expected.mean() == pytest.approx(one.rate.mean())
        assert one.expected.std() > 0


def test_correlations_are_those_of_scipy(texts: list[str]) -> None:
    profiles, _ = measure([open_run(text) for text in texts], Selection())
    found = correlations(profiles, ["tensor", "module"])
    rates = {(one.tensor, one.checkpoint, one.side): one.rate for one in profiles}
    above = {(one.tensor, one.checkpoint, one.side): one.rate - one.expected for one in profiles}
    tensors = found[found["level"] == "tensor"]
    assert len(tensors) == 14 * 3 * 2
    for _, row in tensors.iterrows():
        a, b = (rates[(row["tensor"], row[f"checkpoint_{side}"], row["side"])] for side in "ab")
        assert row["pearson"] == pytest.approx(pearsonr(a, b).statistic)
        assert row["spearman"] == pytest.approx(spearmanr(a, b).statistic)
        a, b = (above[(row["tensor"], row[f"checkpoint_{side}"], row["side"])] for side in "ab")
        assert row["pearson_above_magnitude_matched"] == pytest.approx(pearsonr(a, b).statistic)
    pooled = found[(found["module"] == "q_proj") & (found["level"] == "module") & (found["side"] == "row")]
    row = pooled.iloc[0]
    centred = [
        np.concatenate(
            [
                rate - rate.mean()
                for layer in (0, 1)
                for rate in [rates[(Q.replace("1", str(layer)), row[f"checkpoint_{side}"], "row")]]
            ]
        )
        for side in "ab"
    ]
    want = centred[0] @ centred[1] / np.linalg.norm(centred[0]) / np.linalg.norm(centred[1])
    assert row["pearson"] == pytest.approx(want)


@given(hnp.arrays(float, st.integers(1, 9), elements=st.floats(0, 1)))
def test_smoothing_takes_the_mean_with_the_neighbours(rate: np.ndarray) -> None:
    want = [np.mean(rate[max(0, i - 1) : i + 2]) for i in range(len(rate))]
    np.testing.assert_allclose(smoothed(rate), want, atol=1e-12)


@given(hnp.arrays(np.uint16, hnp.array_shapes(max_dims=2), elements=st.integers(0, 511)))
def test_classes_number_the_keys(key: np.ndarray) -> None:
    used, index = np.unique(key, return_inverse=True)
    found, count = classes(key)
    assert count == len(used)
    assert np.array_equal(found, index.reshape(key.shape))


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    """A run folder whose steps sort otherwise as text, with the float32 weights of one."""
    for step in (2, 10, 9):
        train(checkpoint, tmp_path / f"run/checkpoints/step-{step}", step, torch.bfloat16)
    train(checkpoint, tmp_path / "run/checkpoints/step-10/fp32", 10)
    record = {"status": "running", "seed": 1, "start": {"path": str(checkpoint)}}
    (tmp_path / "run/run.json").write_text(json.dumps(record))
    (tmp_path / "run/recipe.yaml").write_text("steps: 10\n")
    return tmp_path / "run"


def test_a_run_folder_gives_its_checkpoints_by_step(folder: Path, checkpoint: Path, command: Command) -> None:
    runs = checkpoints_of(folder)
    assert [run.end.folder.name for run in runs] == ["step-2", "step-9", "step-10"]
    assert {run.start.folder for run in runs} == {checkpoint}
    texts = [f"{checkpoint}:{run.end.folder}" for run in runs]
    for extra in ([], ["--correlate"]):
        ask = ("--by", "model,tensor", "--format", "csv", "--quiet", *extra)
        assert command("rates", folder, *ask).out == command("rates", *texts, *ask).out


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "run.json is missing, but checkpoints is there"),
        ("{", "run.json is not JSON"),
        ("[]", "run.json is not a record"),
        ('{"status": "running"}', "does not say where"),
        ('{"status": "running", "start": {"path": "/no/such/folder"}}', "/no/such/folder is not there"),
    ],
)
def test_what_is_no_run_folder_is_refused(
    folder: Path, command: Command, content: str | None, says: str
) -> None:
    (folder / "run.json").unlink()
    if content is not None:
        (folder / "run.json").write_text(content)
    found = command("rates", folder)
    assert (found.code, found.err.count("\n"), found.out) == (2, 1, "")
    assert says in found.err


def test_a_run_folder_without_checkpoints_is_refused(folder: Path, command: Command) -> None:
    shutil.rmtree(folder / "checkpoints")
    found = command("rates", folder)
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert "no checkpoints/step-*" in found.err


def test_values_hold_every_profile(texts: list[str], command: Command, tmp_path: Path) -> None:
    path = tmp_path / "values.csv"
    assert command("rates", *texts[:2], "--values", path, "--quiet").code == 0
    table = pd.read_csv(path)
    profiles, _ = measure([open_run(text) for text in texts[:2]], Selection())
    groups = dict(iter(table.groupby(["tensor", "checkpoint", "side"])))
    assert len(groups) == len(profiles)
    for one in profiles:
        here = groups[(one.tensor, one.checkpoint, one.side)]
        assert here["index"].tolist() == list(range(len(one.rate)))
        np.testing.assert_allclose(here["rate"], one.rate, rtol=1e-15)
        np.testing.assert_allclose(here["magnitude_matched"], one.expected, rtol=1e-15)


@pytest.mark.parametrize("suffix", swept(["svg", "png"], kept=1))
def test_profiles_are_drawn(texts: list[str], command: Command, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"profiles.{suffix}"
    ask = ("rates", *texts, "--layers", "1", "--modules", "q_proj,o_proj", "--plot", path, "--quiet")
    found = command(*ask, "--table", tmp_path / "rates.json")
    assert (found.code, found.err) == (0, "")
    content = path.read_bytes()
    assert content.startswith(b"<svg" if suffix == "svg" else b"\x89PNG")
    if suffix == "svg":
        assert b"nan" not in content.lower()
        command(*ask)
        assert path.read_bytes() == content
    assert len(json.loads((tmp_path / "rates.json").read_text())["rows"]) == 3 * 3 * 4


def test_an_update_that_is_zero(checkpoint: Path, command: Command, tmp_path: Path) -> None:
    ask = ("--plot", tmp_path / "f.png", "--modules", "q_proj", "--format", "json", "--quiet")
    found = command("rates", f"{checkpoint}:{checkpoint}", *ask)
    assert (found.code, found.err) == (0, "")
    assert {row["score"] for row in found.json["rows"]} == {None}
    assert {row["rate"] for row in found.json["rows"]} == {0}


def test_no_run_two_starts_and_one_end_twice_are_refused(
    texts: list[str], command: Command, checkpoint: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(checkpoint, tmp_path / "other")
    for arguments, says in (
        ([], "takes a run folder"),
        ([texts[0], texts[1].replace(str(checkpoint), str(other))], "with one START"),
        ([texts[0]] * 2, "every run once"),
    ):
        found = command("rates", *arguments, "--quiet")
        assert (found.code, found.err.count("\n"), found.out) == (2, 1, "")
        assert says in found.err


def test_more_matrices_than_a_figure_shows_are_refused(
    texts: list[str], command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scramble.measures.maps.figures.MOST_PROFILES", 13)
    found = command("rates", *texts, "--plot", tmp_path / "f.png", "--quiet")
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert "14 matrices" in found.err
