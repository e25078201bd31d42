"""`spectra` and `principal` on checkpoints: slow definitions, pooling, selection, figures, refusals."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from scramble import cli
from scramble.errors import SelectionError
from scramble.geometry.cli import commands
from scramble.geometry.mask_file import read_masks
from scramble.geometry.matrices import Selection, matrices
from scramble.geometry.principal import count_masks, principal
from scramble.geometry.spectra import measure, singular_value_curves, spectra
from scramble.updates.ends import Run, ends
from scramble.updates.masks import magnitude_key
from tests.conftest import Command
from tests.models import weights
from tests.scramble.updates.test_tables import train

LEVELS = ["model", "module", "layer", "layer-module", "tensor"]
MODULES = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
UP = "model.layers.1.mlp.up_proj.weight"

if not entry_points(group="scramble.commands", name="geometry"):
    commands(cli.app)  # an installation from before the entry point was added


@pytest.fixture
def fp32(checkpoint: Path, tmp_path: Path) -> Path:
    return train(checkpoint, tmp_path / "fp32", 0)


@pytest.fixture
def run(checkpoint: Path, tmp_path: Path) -> Run:
    return ends(checkpoint, train(checkpoint, tmp_path / "end", 0, torch.bfloat16))


def text(run: Run) -> str:
    return f"{run.start.folder}:{run.end.folder}"


def both(run: Run, name: str) -> tuple[np.ndarray, np.ndarray]:
    return tuple(weights(end.folder)[name].double().numpy() for end in (run.start, run.end))


def test_spectra_are_numpys(run: Run) -> None:
    table = spectra(measure(run, 5), ["tensor"]).set_index("tensor")
    assert len(table) == 14
    for name, row in table.iterrows():
        old, new = both(run, str(name))
        (u, s, vt), (u2, s2, vt2) = np.linalg.svd(old), np.linalg.svd(new)
        k = row["rank"]
        assert k == min(5, min(old.shape) // 2)
        assert row["nss"] == pytest.approx(np.linalg.norm(s2 - s) / np.linalg.norm(s), rel=1e-9)
        for side, one, two in (("left", u, u2), ("right", vt.T, vt2.T)):
            cosines = np.linalg.svd(one[:, :k].T @ two[:, :k], compute_uv=False)
            degrees = np.degrees(np.arccos(np.minimum(cosines, 1)))
            assert row[f"angle_{side}_max"] == pytest.approx(degrees.max(), abs=1e-5)
            assert row[f"angle_{side}_mean"] == pytest.approx(degrees.mean(), abs=1e-5)
        assert row["update_spectral_norm"] == pytest.approx(np.linalg.norm(new - old, 2))
        assert 0 < row[["weyl", "hoffman_wielandt", "ky_fan"]].max() <= 1


def test_pooled_spectra_are_those_of_their_matrices(run: Run) -> None:
    measured = measure(run, 5)
    tables = spectra(measured, LEVELS)
    each, whole = (tables[tables["level"] == level] for level in ("tensor", "model"))
    model = whole.iloc[0]
    assert model["matrices"] == 14
    start, end = (np.concatenate([getattr(one, side) for one in measured]) for side in ("start", "end"))
    assert model["nss"] == pytest.approx(np.linalg.norm(end - start) / np.linalg.norm(start))
    for side in ("left", "right"):
        every = np.concatenate([getattr(one, f"angles_{side}") for one in measured])
        assert model[f"angle_{side}_max"] == every.max()
        assert model[f"angle_{side}_mean"] == pytest.approx(every.mean())
    assert model["wedin_checked"] == each["wedin_checked"].sum() > 0
    assert model["wedin_bound"] == each["wedin_bound"].min()
    assert sorted(tables.loc[tables["level"] == "module", "module"]) == MODULES


def test_curves_hold_every_singular_value(run: Run) -> None:
    measured = measure(run, 5, Selection(modules=["up_proj"]))
    curves = singular_value_curves(measured)
    one = curves[curves["tensor"] == UP]
    old, new = both(run, UP)
    assert one["sigma_start"].to_numpy() == pytest.approx(np.linalg.svd(old, compute_uv=False))
    assert one["sigma_end"].to_numpy() == pytest.approx(np.linalg.svd(new, compute_uv=False))
    assert one["index"].tolist() == list(range(1, min(old.shape) + 1))
    assert one["angle_left"].notna().sum() == 5


def test_overlaps_are_those_of_a_slow_count(run: Run) -> None:
    alphas = (0.05, 0.5)
    table = principal(count_masks(run, 3, alphas, chosen=Selection("1", ["up_proj"])), ["tensor"])
    old, new = both(run, UP)
    changed = old != new
    u, s, vt = np.linalg.svd(old)
    kept = np.abs((u[:, :3] * s[:3]) @ vt[:3])
    words = (weights(run.start.folder)[UP].float().numpy().view(np.uint32) >> 16).astype(np.uint16)
    keys = magnitude_key(words)
    assert set(table["tensor"]) == {UP}
    for alpha in alphas:
        count = round(alpha * old.size)
        low = np.zeros(old.size, dtype=bool)
        low[np.argsort(np.abs(old), axis=None, kind="stable")[:count]] = True
        low = low.reshape(old.shape)
        top = kept >= np.sort(kept, axis=None)[-count]
        expected = {"principal": top, "low_magnitude": low, "safe": low | ~top, "complement": ~top}
        expected["principal_not_low"] = top & ~low
        for kind, mask in expected.items():
            row = table[(table["mask"] == kind) & (table["alpha"] == alpha)].iloc[0]
            inside, m = (mask & changed).sum(), mask.sum()
            matched = sum(changed[keys == keys[at]].mean() for at in zip(*np.nonzero(mask), strict=True))
            assert row["density_mask"] == pytest.approx(mask.mean())
            assert row["density_update"] == pytest.approx(changed.mean())
            assert row["overlap_update"] == pytest.approx(inside / changed.sum())
            assert row["overlap_mask"] == pytest.approx(inside / m)
            assert row["chance_update"] == pytest.approx(mask.mean())
            assert row["chance_mask"] == pytest.approx(changed.mean())
            assert row["magnitude_matched_update"] == pytest.approx(matched / changed.sum())
            assert row["magnitude_matched_mask"] == pytest.approx(matched / m)


def test_pooled_overlaps_are_ratios_of_sums(run: Run) -> None:
    counts = count_masks(run, 3)
    tables = principal(counts, LEVELS)
    mine = counts[counts["mask"] == "safe"]
    row = tables[(tables["level"] == "model") & (tables["mask"] == "safe")].iloc[0]
    assert row["overlap_update"] == mine["both"].sum() / mine["changed"].sum()
    assert row["chance_mask"] == pytest.approx(mine["chance"].sum() / mine["marked"].sum())
    for level in LEVELS[1:]:
        here = tables[(tables["level"] == level) & (tables["mask"] == "safe")]
        assert here["n"].sum() == row["n"]
    random = tables[(tables["level"] == "model") & (tables["mask"] == "random")].iloc[0]
    assert random["density_mask"] == row["density_mask"]
    assert random["overlap_update"] == pytest.approx(random["chance_update"], abs=0.05)


def test_an_update_that_follows_magnitude_alone_is_predicted_by_it(checkpoint: Path, tmp_path: Path) -> None:
    """Weights below 2^-6 change and no others: the key predicts the overlap with every mask exactly."""
    end = tmp_path / "end"
    end.mkdir()
    tensors = {name: torch.where(w.abs() < 2**-6, w * 1.5, w) for name, w in weights(checkpoint).items()}
    save_file(tensors, end / "model.safetensors", metadata={"format": "pt"})
    (end / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    table = principal(count_masks(ends(checkpoint, end), 3), ["tensor"])
    assert table["overlap_update"].notna().any()
    for side in ("update", "mask"):
        pd.testing.assert_series_equal(
            table[f"overlap_{side}"], table[f"magnitude_matched_{side}"], check_names=False
        )


def test_without_a_change_ratios_are_missing_and_angles_zero(checkpoint: Path) -> None:
    still = ends(checkpoint, checkpoint)
    overlaps = principal(count_masks(still, 3), ["model"])
    assert overlaps["overlap_update"].isna().all()
    assert (overlaps["overlap_mask"] == 0).all()
    model = spectra(measure(still, 4), ["model"]).iloc[0]
    assert model["nss"] == model["angle_left_max"] == model["weyl"] == 0


def test_float32_ends_are_read_as_stored(checkpoint: Path, fp32: Path) -> None:
    run = ends(checkpoint, fp32)
    one = next(one for one in measure(run, 4) if one.tensor == UP)
    assert one.end == pytest.approx(np.linalg.svd(both(run, UP)[1], compute_uv=False))
    counts = count_masks(run, 3)
    assert counts["magnitude_matched"].notna().all()
    started_off_grid = count_masks(ends(fp32, checkpoint), 3)
    assert started_off_grid["magnitude_matched"].isna().all()


def test_what_is_measured_is_selected(run: Run) -> None:
    inside = matrices(run, Selection())
    assert all(weights(run.start.folder)[name].ndim == 2 for name in inside)
    assert not [name for name in inside if "embed" in name or "lm_head" in name]
    more = set(matrices(run, Selection(embeddings=True))) - set(inside)
    assert more == {"model.embed_tokens.weight", "lm_head.weight"}
    assert matrices(run, Selection(modules=["lm_head"])) == ["lm_head.weight"]
    assert matrices(run, Selection("1", ["up_proj"])) == [UP] == matrices(run, Selection("-1", ["up_proj"]))
    with pytest.raises(SelectionError, match="no matrix is left"):
        matrices(run, Selection("0", ["lm_head"]))


@pytest.mark.parametrize("name", ["spectra", "principal"])
def test_commands_print_every_format(run: Run, command: Command, name: str) -> None:
    found = command(name, text(run), "--by", "module,tensor", "--format", "json", "--quiet")
    assert (found.code, found.err) == (0, "")
    assert found.json["meta"]["matrices"] == 14
    rows = found.json["rows"]
    assert {row["level"] for row in rows} == {"module", "tensor"}
    lines = command(name, text(run), "--by", "module,tensor", "--format", "csv").out.splitlines()
    assert len(lines) == len(rows) + 1
    assert lines[0] == ",".join(rows[0])
    assert "up_proj" in command(name, text(run), "--by", "module").out


@pytest.mark.parametrize("suffix", ["svg", "png"])
@pytest.mark.parametrize("name", ["spectra", "principal"])
def test_figures_are_drawn(run: Run, command: Command, tmp_path: Path, name: str, suffix: str) -> None:
    path = tmp_path / f"figure.{suffix}"
    assert command(name, text(run), "--plot", path, "--quiet").code == 0
    content = path.read_bytes()
    assert content.startswith(b"<svg" if suffix == "svg" else b"\x89PNG")
    assert len(content) > 20_000
    if suffix == "svg":
        assert b"nan" not in content.lower()
        first = content
        command(name, text(run), "--plot", path, "--quiet")
        assert path.read_bytes() == first


def test_figures_of_an_update_that_is_zero_are_drawn(
    checkpoint: Path, command: Command, tmp_path: Path
) -> None:
    for name in ("spectra", "principal"):
        found = command(name, f"{checkpoint}:{checkpoint}", "--plot", tmp_path / "f.png", "--quiet")
        assert (found.code, found.err) == (0, "")


def test_values_are_written(run: Run, command: Command, tmp_path: Path) -> None:
    path = tmp_path / "values.csv"
    command("spectra", text(run), "--layers", "0", "--values", path, "--quiet")
    found = pd.read_csv(path)
    assert found["tensor"].nunique() == 7
    assert found["sigma_start"].gt(0).all()
    missing = command("spectra", text(run), "--values", tmp_path / "no" / "values.csv", "--quiet")
    assert (missing.code, missing.err.count("\n")) == (2, 1)


def test_masks_are_written_for_training(run: Run, command: Command, tmp_path: Path) -> None:
    path = tmp_path / "masks.safetensors"
    ask = ("principal", text(run), "--rank", "3", "--alpha", "0.3", "--write", path, "--quiet")
    assert command(*ask, "--mask", "low_magnitude", "--format", "json").json["meta"]["masks"] == str(path)
    masks = read_masks(path)
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    assert {name: metadata[name] for name in ("mask", "rank", "alpha", "start")} == {
        **{"mask": "low_magnitude", "rank": "3", "alpha": "0.3"},
        "start": run.start.hash(masks),
    }
    held = {name for name, value in weights(run.start.folder).items() if value.ndim == 2}
    assert set(masks) == held - {"model.embed_tokens.weight", "lm_head.weight"}
    for name, mask in masks.items():
        old, _ = both(run, name)
        assert mask.sum() == round(0.3 * old.size)
        assert np.abs(old[mask]).max() <= np.abs(old[~mask]).min()
    again = command(*ask)
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert "--force" in again.err
    assert command(*ask, "--force").code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["spectra", "--by", "head"], "--by head"),
        (["spectra", "--layers", "7"], "outside this model's layers 0 to 1"),
        (["spectra", "--modules", "q"], "no matrix 'q' here; there are down_proj"),
        (["spectra", "--plot", "figure.pdf"], ".svg or .png"),
        (["principal", "--plot", "no/figure.svg"], "does not exist"),
        (["principal", "--alpha", "1.5"], "alpha 1.5"),
        (["principal", "--alpha", "nan"], "alpha nan"),
        (["principal", "--sweep", "0.1,half"], "--sweep 0.1,half"),
        (["principal", "--mask", "best"], "--mask best"),
        (["principal", "--sweep", "0.1,0.2", "--write", "m.safetensors"], "one --alpha"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(
    run: Run, command: Command, arguments: list[str], says: str
) -> None:
    found = command(arguments[0], text(run), *arguments[1:])
    assert (found.code, found.err.count("\n"), found.out) == (2, 1, "")
    assert says in found.err


def test_infinite_weights_are_refused_by_name(run: Run, command: Command) -> None:
    tensors = weights(run.end.folder)
    tensors[UP][0, 0] = float("inf")
    save_file(tensors, run.end.folder / "model.safetensors", metadata={"format": "pt"})
    for name in ("spectra", "principal"):
        found = command(name, text(run), "--quiet")
        assert (found.code, found.err.count("\n")) == (2, 1)
        assert UP in found.err


def test_a_broken_bound_is_reported_as_a_bug(
    run: Run, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["scramble.geometry.spectra"]
    real = module.singular_values
    monkeypatch.setattr(module, "singular_values", lambda weight: 0.01 * real(weight))
    found = command("spectra", text(run), "--quiet")
    assert (found.code, found.err.count("\n"), found.out) == (2, 1, "")
    assert "a bug in scramble" in found.err
