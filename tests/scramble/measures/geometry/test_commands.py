"""`scramble spectra` and `scramble principal`: formats, figures, files, refusals."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from scramble.measures.geometry.mask_file import read_masks
from scramble.measures.pairs.ends import CheckpointPair
from tests.conftest import Command
from tests.models import weights
from tests.scramble.measures.geometry.weights import both_ends
from tests.training import swept

UP = "model.layers.1.mlp.up_proj.weight"


def text(run: CheckpointPair) -> str:
    return f"{run.start.folder}:{run.end.folder}"


@pytest.mark.parametrize("name", ["spectra", "principal"])
def test_commands_print_every_format(run: CheckpointPair, command: Command, name: str) -> None:
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
@pytest.mark.parametrize("name", swept(["spectra", "principal"], kept=1))
def test_figures_are_drawn(
    run: CheckpointPair, command: Command, tmp_path: Path, name: str, suffix: str
) -> None:
    path = tmp_path / f"figure.{suffix}"
    assert command(name, text(run), "--plot", path, "--quiet").code == 0
    content = path.read_bytes()
    assert content.startswith(b"<svg" if suffix == "svg" else b"\x89PNG")
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


def test_values_are_written(run: CheckpointPair, command: Command, tmp_path: Path) -> None:
    path = tmp_path / "values.csv"
    command("spectra", text(run), "--layers", "0", "--values", path, "--quiet")
    found = pd.read_csv(path)
    assert found["tensor"].nunique() == 7
    assert found["sigma_start"].gt(0).all()
    missing = command("spectra", text(run), "--values", tmp_path / "no" / "values.csv", "--quiet")
    assert (missing.code, missing.err.count("\n")) == (2, 1)


def test_masks_are_written_for_training(run: CheckpointPair, command: Command, tmp_path: Path) -> None:
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
        old, _ = both_ends(run, name)
        assert mask.sum() == round(0.3 * old.size)
        assert np.abs(old[mask]).max() <= np.abs(old[~mask]).min()
    again = command(*ask)
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert "--force" in again.err
    assert command(*ask, "--force").code == 0


def test_infinite_weights_are_refused_by_name(run: CheckpointPair, command: Command) -> None:
    tensors = weights(run.end.folder)
    tensors[UP][0, 0] = float("inf")
    save_file(tensors, run.end.folder / "model.safetensors", metadata={"format": "pt"})
    for name in ("spectra", "principal"):
        found = command(name, text(run), "--quiet")
        assert (found.code, found.err.count("\n")) == (2, 1)
        assert UP in found.err


def test_a_broken_bound_is_reported_as_a_bug(
    run: CheckpointPair, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["scramble.measures.geometry.spectra"]
    real = module.singular_values
    monkeypatch.setattr(module, "singular_values", lambda weight: 0.01 * real(weight))
    found = command("spectra", text(run), "--quiet")
    assert (found.code, found.err.count("\n"), found.out) == (2, 1, "")
    assert "a bug in scramble" in found.err
