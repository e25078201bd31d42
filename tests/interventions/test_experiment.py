"""A whole experiment on a tiny model: plan, lanes, contrast, report; interruptions; refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from matplotlib.image import imread

from scramble.columns import described
from scramble.interventions.columns import TABLES
from scramble.interventions.contrast import contrast_once
from scramble.interventions.experiment import plan, prepare, read_experiment, treatment
from scramble.interventions.lanes import lanes
from tests.conftest import Command
from tests.experiments import RECIPE, make_base, write
from tests.models import weights

pytestmark = pytest.mark.train
STEPS = ("plan", "run", "contrast", "report")


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
    command = [sys.executable, "-c", "from scramble.cli.app import main; main()", *map(str, arguments)]
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
    assert len(list((done / "out" / "starts").glob("scrambled-*"))) == 1


def test_mixed_toolchains_are_named_and_change_no_value(done: Path, command: Command) -> None:
    ask = (done / "experiment.yaml", "--out", done / "out")
    page = done / "out" / "tiny" / "report.html"
    alike = {name: command("experiment", name, *ask, "--format", "json") for name in ("contrast", "report")}
    assert all("toolchains" not in one.err + str(one.json["meta"]) for one in alike.values())
    assert "made in different ways" not in page.read_text()
    (path,) = done.glob("out/*scrambled-seed2-*/run.json")
    before = path.read_text()
    record = json.loads(before)
    record["hardware"]["gpu"] = "H100"
    path.write_text(json.dumps(record))
    said = "gpu none in base seed 1, base seed 2 and scrambled seed 1, H100 in scrambled seed 2"
    try:
        for name, earlier in alike.items():
            found = command("experiment", name, *ask, "--format", "json")
            assert found.json["meta"]["toolchains"] == said
            assert f"toolchains: {said}\n" in found.err
            assert found.json["rows"] == earlier.json["rows"]
            assert said in " ".join(command("experiment", name, *ask).out.split())
        assert f"made in different ways: {said}." in page.read_text()
    finally:
        path.write_text(before)


def test_a_second_call_runs_nothing(done: Path, command: Command) -> None:
    before = {path: path.stat().st_mtime_ns for path in (done / "out").rglob("run.json")}
    found = command("experiment", "run", done / "experiment.yaml", "--out", done / "out")
    assert found.code == 0
    assert "4 of 4 runs are finished" in found.err
    assert {path: path.stat().st_mtime_ns for path in (done / "out").rglob("run.json")} == before


def test_the_same_seed_sees_the_same_prompts_in_both_arms_and_another_seed_others(done: Path) -> None:
    runs = {(run.arm, run.seed): run for run in plan(read_experiment(done / "experiment.yaml"), done / "out")}
    prompts = {key: run.folder.metrics[0]["prompts"] for key, run in runs.items() if run.folder}
    assert prompts["base", 1] == prompts["scrambled", 1] != prompts["base", 2] == prompts["scrambled", 2]


def test_the_columns_of_experiments_and_runs_are_described(done: Path, command: Command) -> None:
    for name in ("pairs.csv", "by_layer.csv", "by_treatment.csv", "regime.csv"):
        assert described(name, list(pd.read_csv(done / "out" / "tiny" / name)), TABLES)
    folders = sorted((done / "out").glob("tiny-*"))
    for asked in (
        *(["experiment", name, done / "experiment.yaml", "--out", done / "out"] for name in STEPS),
        ["runs", "list", done / "out"],
        ["runs", "compare", *folders[:2]],
    ):
        rows = command(*asked, "--format", "json", "--quiet").json["rows"]
        assert described(" ".join(map(str, asked[:2])), {key for row in rows for key in row}, TABLES)


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


def test_treatments_name_what_acted_on_each_tensor(done: Path) -> None:
    (start,) = (done / "out" / "starts").glob("scrambled-*")
    found = treatment(start, done / "base")
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
    for name in ("overlap-scrambled", "direction-scrambled", "rewards"):
        assert imread(done / "out" / "tiny" / f"{name}.png").std() > 0
    assert page.count("<svg") == 4
    for text in ("base x scrambled", "vo-rotation + head-permutation", "equivalent", "fewer than four runs"):
        assert text in page


def test_a_killed_experiment_loses_no_finished_run_and_goes_on(tmp_path: Path) -> None:
    make_base(tmp_path)
    path, out = (
        write(tmp_path, arms={"base": []}, seeds=[1, 2], recipe=RECIPE | {"steps": 2, "fp32_steps": [2]}),
        tmp_path / "out",
    )
    command = [
        sys.executable,
        "-c",
        "from scramble.cli.app import main; main()",
        "experiment",
        "run",
        str(path),
    ]
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
    assert statuses(out) == ["finished"] * 2
    assert all(p.read_bytes() == content for p, content in before.items())


def statuses(out: Path) -> list[str]:
    found = []
    for path in out.glob("*/run.json"):
        try:
            found.append(json.loads(path.read_text())["status"])
        except FileNotFoundError:
            continue
    return found


def test_a_run_that_fails_does_not_stop_the_others(tmp_path: Path, command: Command) -> None:
    base = make_base(tmp_path)
    arms = {"scrambled": ["vo-rotation:layers=1"], "base": []}
    path, out = write(tmp_path, arms=arms, seeds=[1]), tmp_path / "out"
    prepare(read_experiment(path), out)
    (start,) = (out / "starts").iterdir()
    (start / "tokenizer.json").unlink()
    (start / "tokenizer_config.json").unlink()
    found = command("experiment", "run", path, "--out", out, "--quiet", "--lanes", 1)
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert "1 of 2 runs failed: scrambled seed 1" in found.err
    assert sorted(statuses(out)) == ["failed", "finished"]
    assert base.exists()


def test_a_run_that_is_killed_is_said_to_have_failed_and_the_others_go_on(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_base(tmp_path)
    recipe = RECIPE | {"resume_every": 1}
    path, out = write(tmp_path, arms={"base": []}, seeds=[1, 2], recipe=recipe), tmp_path / "out"
    lane: list[Any] = []

    class FirstIsKilled(subprocess.Popen[Any]):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            if not lane:  # as the system kills what takes too much memory
                threading.Thread(target=lambda: kill_once_running(self, out)).start()
            lane.append(self)

    monkeypatch.setattr(subprocess, "Popen", FirstIsKilled)
    found = command("experiment", "run", path, "--out", out, "--quiet", "--lanes", 1)
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert "1 of 2 runs failed: base seed 1: killed by SIGKILL, as the system does where memory" in found.err
    assert sorted(statuses(out)) == ["failed", "finished"]
    (row,) = (r for r in command("runs", "list", out, "--format", "json").json["rows"] if r["problem"])
    assert "killed by SIGKILL" in row["problem"]
    monkeypatch.undo()
    assert command("experiment", "run", path, "--out", out, "--quiet", "--lanes", 1).code == 0
    rows = command("runs", "list", out, "--format", "json").json["rows"]
    assert [(row["status"], row["problem"]) for row in rows] == [("finished", None)] * 2


def kill_once_running(process: subprocess.Popen[bytes], out: Path) -> None:
    while process.poll() is None and not list(out.glob("*/state/step-1/trainer_state.json")):
        time.sleep(0.02)
    process.kill()


def test_arms_are_contrasted_with_the_base_each_by_itself(done: Path, tmp_path: Path) -> None:
    arms = {"base": [], "turned": ["vo-rotation:layers=1"], "swapped": ["head-permutation:layers=2"]}
    path = write(tmp_path, base=str(done / "base"), arms=arms, seeds=[1, 2])
    cli("experiment", "run", path, "--out", done / "out", "--quiet")
    experiment = read_experiment(path)
    runs = plan(experiment, done / "out")
    assert [run.status for run in runs] == ["finished"] * 6
    found = contrast_once(experiment, runs, tmp_path / "tables")
    for arm, treatment_, layer in (("turned", "vo-rotation", 1), ("swapped", "head-permutation", 2)):
        rows = found.by_layer[found.by_layer["arm"] == arm]
        assert set(rows["contrast"]) == {"base x base", f"base x {arm}", f"{arm} x {arm}"}
        treated = rows[rows["treatment"] == treatment_]
        assert set(treated["layer"]) == {layer}
        others = set(rows["treatment"]) - {treatment_}
        assert others == {"untreated", "outside the layers"}


def test_tables_are_computed_again_when_the_runs_are_others_or_a_table_is_gone(
    done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scramble.interventions import contrast as module

    experiment = read_experiment(done / "experiment.yaml")
    runs, folder = plan(experiment, done / "out"), done / "out" / "tiny"
    calls: list[int] = []
    computed = module.contrast

    def counting(*arguments: Any) -> Any:
        calls.append(1)
        return computed(*arguments)

    monkeypatch.setattr(module, "contrast", counting)
    contrast_once(experiment, runs, folder)
    assert calls == []
    (folder / "pairs.csv").unlink()
    contrast_once(experiment, runs, folder)
    assert calls == [1]
    contrast_once(experiment, runs[:3], folder)
    assert calls == [1, 1]
    contrast_once(experiment, runs, folder)


def test_a_base_that_moved_is_found_where_the_experiment_says(done: Path, tmp_path: Path) -> None:
    import shutil

    moved = Path(shutil.copytree(done, tmp_path / "moved"))
    (start,) = (moved / "out" / "starts").glob("scrambled-*")
    manifest = (start / "scramble.json").read_text()
    (start / "scramble.json").write_text(manifest.replace(str(done), "/gone"))
    cli("experiment", "contrast", write(moved, name="again"), "--out", moved / "out", "--quiet")
    assert (moved / "out" / "again" / "pairs.csv").exists()


def test_lanes_divide_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for runs, count, expected in ((4, None, (4, 2)), (20, None, (8, 1)), (3, None, (3, 2)), (4, 2, (2, 4))):
        found = lanes(runs, count)
        assert (found.count, found.threads) == expected
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert lanes(9).gpus == ("2", "3")
    assert lanes(9).count == 2
