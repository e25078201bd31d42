"""A whole experiment on a tiny model: plan, lanes, contrast, report; interruptions; refusals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from interventions.experiment import plan, read_experiment, treatments
from tests.conftest import Command
from tests.models import Tiny, weights, with_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")

RECIPE: dict[str, Any] = {
    "task": {"name": "few-shot-sums", "size": 32, "low": 0, "high": 1, "answer_pattern": "[^012]*([012])"},
    "algorithm": {"prompts": 2, "generations": 8, "max_new_tokens": 6},
    "optimizer": {"learning_rate": 1e-3},
    "precision": "fp32",
    "steps": 3,
    "fp32_steps": [3],
}


def write(folder: Path, **changes: Any) -> Path:
    content = {
        "name": "tiny",
        "base": str(folder / "base"),
        "arms": {"base": [], "scrambled": ["vo-rotation:layers=1,2", "head-permutation:layers=1"]},
        "seeds": [1, 2],
        "recipe": RECIPE,
    }
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(content | changes))
    return path


def make_base(folder: Path) -> Path:
    base = Tiny("llama", 3, 2, 8, layers=3, tied=True, seed=1).save(folder / "base", torch.bfloat16)
    return with_tokenizer(base)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished experiment, with its report."""
    folder = tmp_path_factory.mktemp("experiment")
    make_base(folder)
    path = write(folder)
    for step in ("run", "contrast", "report"):
        cli("experiment", step, path, "--out", folder / "out", "--quiet")
    return folder


def cli(*arguments: object) -> str:
    command = [sys.executable, "-c", "from scramble.cli import main; main()", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_every_run_is_finished_and_starts_are_shared(done: Path, command: Command) -> None:
    found = command("experiment", "plan", done / "experiment.yaml", "--out", done / "out", "--format", "json")
    rows = found.json["rows"]
    assert [(row["arm"], row["seed"], row["status"]) for row in rows] == [
        (arm, seed, "finished") for arm in ("base", "scrambled") for seed in (1, 2)
    ]
    assert all(row["rollouts"] == 48 and row["seconds"] > 0 and row["disk_gb"] > 0 for row in rows)
    assert len(list((done / "out" / "starts").iterdir())) == 1


def test_a_second_call_runs_nothing(done: Path, command: Command) -> None:
    before = {path: path.stat().st_mtime_ns for path in (done / "out").rglob("run.json")}
    found = command("experiment", "run", done / "experiment.yaml", "--out", done / "out")
    assert found.code == 0
    assert "4 of 4 runs are finished" in found.err
    assert {path: path.stat().st_mtime_ns for path in (done / "out").rglob("run.json")} == before


def test_the_same_seed_sees_the_same_rollouts_in_both_arms_and_another_seed_others(done: Path) -> None:
    runs = {(run.arm, run.seed): run for run in plan(read_experiment(done / "experiment.yaml"), done / "out")}
    prompts = {key: run.folder.metrics[0]["prompts"] for key, run in runs.items() if run.folder}
    assert prompts["base", 1] == prompts["scrambled", 1] != prompts["base", 2] == prompts["scrambled", 2]


def test_contrasts_pair_different_seeds_and_table_same_seeds_apart(done: Path) -> None:
    pairs = pd.read_csv(done / "out" / "tiny" / "pairs.csv")
    assert (pairs["same_seed"] == (pairs["seed_a"] == pairs["seed_b"])).all()
    table = pd.read_csv(done / "out" / "tiny" / "by_treatment.csv")
    counted = {
        (row.contrast, row.same_seed): row.pairs
        for row in table[table["frame"] == "raw"].itertuples(index=False)
    }
    assert counted == {
        ("base x base", False): 1,
        ("base x scrambled", False): 2,
        ("base x scrambled", True): 2,
        ("scrambled x scrambled", False): 1,
    }
    assert table["jaccard_low"].isna().all()
    one = pairs[(pairs["layer"] == 1) & (pairs["module"] == "o_proj") & (pairs["frame"] == "raw")]
    cross = one[(one["contrast"] == "base x scrambled") & ~one["same_seed"]]
    layered = pd.read_csv(done / "out" / "tiny" / "by_layer.csv")
    row = layered[
        (layered["contrast"] == "base x scrambled")
        & ~layered["same_seed"]
        & (layered["frame"] == "raw")
        & (layered["layer"] == 1)
        & (layered["module"] == "o_proj")
    ]
    assert row["jaccard"].item() == pytest.approx(cross["jaccard"].mean())


def test_untreated_tensors_have_the_same_figures_in_both_frames(done: Path) -> None:
    table = pd.read_csv(done / "out" / "tiny" / "by_layer.csv")
    rest = table[table["treatment"] == "untreated"].drop(columns="frame")
    raw, aligned = (rest[table["frame"] == frame].reset_index(drop=True) for frame in ("raw", "aligned"))
    pd.testing.assert_frame_equal(raw, aligned)


def test_treatments_name_what_acted_on_each_tensor(done: Path) -> None:
    (start,) = (done / "out" / "starts").iterdir()
    found = treatments([start, done / "base"])
    prefix = "model.layers.{}.self_attn.{}_proj.weight"
    assert found[prefix.format(1, "o")] == "vo-rotation + head-permutation"
    assert found[prefix.format(2, "v")] == "vo-rotation"
    assert found[prefix.format(1, "q")] == "head-permutation"
    assert set(found) == {prefix.format(1, m) for m in "qkvo"} | {prefix.format(2, m) for m in "vo"}
    changed = {n for n, w in weights(start).items() if not torch.equal(w, weights(done / "base")[n])}
    assert changed == set(found)


def test_the_report_is_one_page_that_asks_for_nothing(done: Path) -> None:
    page = (done / "out" / "tiny" / "report.html").read_text()
    assert "http" not in page.replace("http://www.w3.org", "")
    for name in ("collapse", "rewards"):
        assert (done / "out" / "tiny" / f"{name}.png").stat().st_size > 1000
    assert page.count("<svg") == 3
    for text in ("base x scrambled", "vo-rotation + head-permutation", "equivalent", "fewer than four runs"):
        assert text in page


def test_a_killed_experiment_loses_no_finished_run_and_goes_on(tmp_path: Path) -> None:
    make_base(tmp_path)
    path, out = (
        write(tmp_path, seeds=[1, 2], recipe=RECIPE | {"steps": 2, "fp32_steps": [2]}),
        tmp_path / "out",
    )
    command = [sys.executable, "-c", "from scramble.cli import main; main()", "experiment", "run", str(path)]
    command += ["--out", str(out), "--lanes", "1", "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and not (
        statuses(out).count("finished") and "running" in statuses(out)
    ):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {p: p.read_bytes() for p in out.glob("*/run.json") if b'"finished"' in p.read_bytes()}
    assert before
    assert "running" in statuses(out)
    cli(*command[3:])
    assert statuses(out) == ["finished"] * 4
    assert all(p.read_bytes() == content for p, content in before.items())


def statuses(out: Path) -> list[str]:
    import json

    found = []
    for path in out.glob("*/run.json"):
        try:
            found.append(json.loads(path.read_text())["status"])
        except FileNotFoundError:
            continue
    return found


def test_a_run_that_fails_does_not_stop_the_others(tmp_path: Path, command: Command) -> None:
    make_base(tmp_path)
    recipe = RECIPE | {"task": {"name": "reasoning-gym", "dataset": "nonesuch"}}
    path = write(tmp_path, recipe=recipe, seeds=[1], arms={"base": {"seeds": [1, 2]}})
    found = command("experiment", "run", path, "--out", tmp_path / "out", "--quiet")
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert found.err.count("nonesuch") >= 2
    assert "base seed 1" in found.err
    assert "base seed 2" in found.err


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"arm": {}}, "arm: unknown key"),
    "unknown recipe key": ({"recipe": RECIPE | {"lr": 1}}, "lr: unknown key"),
    "recipe sets the seed": ({"recipe": RECIPE | {"seed": 1}}, "recipe.seed: the experiment sets this"),
    "no base arm": ({"arms": {"a": ["vo-rotation:layers=1"]}}, "exactly one arm must have no scrambles"),
    "no seeds": ({"seeds": []}, "seeds"),
    "a seed twice": ({"seeds": [1, 1]}, "a seed is listed twice"),
    "no such base": ({"base": "/nonexistent"}, "/nonexistent"),
    "unknown symmetry": ({"arms": {"base": [], "x": ["vo:layers=1"]}}, "no symmetry named 'vo'"),
    "layer out of range": (
        {"arms": {"base": [], "x": ["vo-rotation:layers=7"]}},
        "outside this model's layers",
    ),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_a_bad_experiment_is_one_line(
    change: dict[str, Any], message: str, tmp_path: Path, command: Command
) -> None:
    make_base(tmp_path)
    found = command("experiment", "run", write(tmp_path, **change), "--out", tmp_path / "out", "--quiet")
    assert (found.code, found.out, found.err.count("\n")) == (2, "", 1)
    assert message in found.err


def test_a_contrast_of_nothing_is_refused(tmp_path: Path, command: Command) -> None:
    make_base(tmp_path)
    found = command("experiment", "contrast", write(tmp_path), "--out", tmp_path / "out")
    assert found.code == 2
    assert "0 finished run(s)" in found.err
    assert [path.name for path in tmp_path.iterdir() if path.name == "out"] == []
