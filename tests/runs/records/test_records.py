"""Listing and showing run folders, damaged ones among them."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml

from scramble.runs.recipe.recipe import Recipe
from scramble.runs.records.folder import WritableRun
from tests.conftest import Command
from tests.refusals.runs import RECORDS


@pytest.fixture
def out(content: dict[str, Any], tmp_path: Path) -> Path:
    """Two runs as training writes them, one of them in the middle; and folders of others."""
    found = tmp_path / "out"
    for name, seed, status, rows in (("a-1", 1, "finished", 2), ("b-2", 2, "running", 1)):
        folder = WritableRun(found / name)
        folder.path.mkdir(parents=True)
        folder.begin(Recipe.model_validate(content | {"seed": seed}))
        ended = {"start": {"path": "start", "hash": "1"}, "end": {"step": rows, "hash": "2"}, "seconds": 1.5}
        folder.write_record(status=status, seeds={"rollouts": seed}, versions={"torch": "2"}, **ended)
        lines = [json.dumps({"step": step, "reward": step / 4}) + "\n" for step in range(1, rows + 1)]
        half = "" if status == "finished" else '{"half a li'
        (folder.path / "metrics.jsonl").write_text("".join(lines) + half)
        for step in ("step-2", "step-10", "step-10/fp32", "step-11.partial"):
            (folder.path / "checkpoints" / step).mkdir(parents=True)
            (folder.path / "checkpoints" / step / "config.json").write_text("{}")
    (found / "starts").mkdir()
    (found / "notes.txt").write_text("mine")
    return found


def test_the_list_has_a_row_a_run(out: Path, command: Command) -> None:
    found = command("runs", "list", out, "--format", "json")
    assert found.code == 0
    assert found.json["rows"] == [
        {
            "run": name,
            "status": status,
            "algorithm": "grpo",
            "task": "few-shot-sums",
            "seed": seed,
            "step": step,
            "steps": 2,
            "reward_first": 0.25,
            "reward_last": step / 4,
            "loss_first": None,
            "loss_last": None,
            "seconds": 1.5,
            "problem": None,
        }
        for name, status, seed, step in (("a-1", "finished", 1, 2), ("b-2", "interrupted", 2, 1))
    ]
    assert "few-shot-sums" in command("runs", "list", out).out


@pytest.mark.parametrize(("file", "bytes_", "message"), RECORDS.values(), ids=RECORDS)
def test_a_damaged_run_is_listed_as_such_beside_the_others(
    file: str, bytes_: bytes, message: str, out: Path, command: Command
) -> None:
    (out / "a-1" / file).write_bytes(bytes_)
    found = command("runs", "list", out, "--format", "json")
    assert found.code == 0
    first, second = found.json["rows"]
    assert (first["run"], first["status"], first["problem"]) == ("a-1", "damaged", message)
    assert second["status"] == "interrupted"
    found = command("runs", "show", out / "a-1")
    assert (found.code, found.out, found.err.count("\n")) == (2, "", 1)
    assert message in found.err


def test_a_run_is_running_while_a_process_holds_it(out: Path, command: Command) -> None:
    for held, status in ((True, "running"), (False, "interrupted")):
        with WritableRun(out / "b-2").locked() if held else nullcontext():
            _, row = command("runs", "list", out, "--format", "json").json["rows"]
            (shown,) = command("runs", "show", out / "b-2", "--format", "json").json["rows"]
        assert (row["status"], shown["status"]) == (status, status)


def test_odd_values_do_not_break_the_list(out: Path, command: Command) -> None:
    (out / "a-1" / "recipe.yaml").write_text(yaml.safe_dump({"task": "sums", "algorithm": None}))
    (out / "b-2" / "recipe.yaml").unlink()
    first, second = command("runs", "list", out, "--format", "json").json["rows"]
    assert (first["task"], first["status"]) == (None, "finished")
    assert (second["status"], second["problem"]) == ("damaged", "recipe.yaml: No such file or directory")


def test_all_of_a_run_is_shown(out: Path, command: Command) -> None:
    (row,) = command("runs", "show", out / "a-1", "--format", "json").json["rows"]
    assert row["recipe"]["task"]["name"] == "few-shot-sums"
    assert row["last_metrics"] == {"step": 2, "reward": 0.5}
    assert row["checkpoints"] == [
        "checkpoints/step-2",
        "checkpoints/step-10",
        "checkpoints/step-10/fp32",
    ]
    assert row["seeds"] == {"rollouts": 1}
    text = command("runs", "show", out / "a-1").out
    for part in ("recipe.task.name", "versions.torch", "last_metrics.reward", "checkpoints/step-10"):
        assert part in text


def test_what_is_no_run_is_one_line(out: Path, command: Command) -> None:
    for arguments in (("list", out / "none"), ("show", out / "none"), ("show", out / "starts")):
        found = command("runs", *arguments)
        assert (found.code, found.out, found.err.count("\n")) == (2, "", 1)
    assert command("runs", "list", out / "starts", "--format", "json").json["rows"] == []
