"""Real training of a tiny model through TRL: same recipe, same bits; another seed, other rollouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from scramble.checkpoints import open_checkpoint
from scramble.errors import ScrambleError
from scramble.runs.engine.run import run, start_hash
from scramble.runs.recipe.recipe import Recipe
from tests.conftest import Command
from tests.models import weights

# TRL and its dependencies warn about their own future; nothing of ours is among these.
pytestmark = pytest.mark.train


def test_one_recipe_gives_one_set_of_bits_and_seeds_reach_the_rollouts(
    recipe: Recipe, content: dict[str, Any], tmp_path: Path
) -> None:
    one, two = run(recipe, tmp_path / "one", threads=1), run(recipe, tmp_path / "two", threads=1)
    other = run(Recipe.model_validate(content | {"seed": 2}), tmp_path / "one", threads=1)
    assert one.path.name == two.path.name != other.path.name
    for fp32 in (False, True):
        first, again, third = (weights(f.checkpoint(2, fp32=fp32)) for f in (one, two, other))
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert not all(torch.equal(first[name], third[name]) for name in first)
    for what in ("prompts", "rollouts"):
        seen = [[row[what] for row in folder.metrics] for folder in (one, two, other)]
        assert seen[0] == seen[1] != seen[2]
        assert len(set(seen[0])) == 2


def test_the_run_folder_holds_what_the_design_says(recipe: Recipe, start: Path, tmp_path: Path) -> None:
    before = start_hash(start)
    folder = run(recipe, tmp_path / "out", threads=1)
    assert yaml.safe_load((folder.path / "recipe.yaml").read_text()) == json.loads(recipe.model_dump_json())
    record = folder.record.content()
    assert folder.status == "finished"
    assert record["start"]["hash"] == before == start_hash(start)
    assert record["end"]["hash"] == open_checkpoint(folder.checkpoint(2)).hash(full=True)
    assert record["versions"]["torch"] == torch.__version__
    assert set(record["seeds"].values()) == {0, 1}
    assert [row["step"] for row in folder.metrics] == [1, 2]
    old, bf16, fp32 = weights(start), weights(folder.checkpoint(2)), weights(folder.checkpoint(2, fp32=True))
    assert old.keys() == bf16.keys() == fp32.keys()
    assert {value.dtype for value in bf16.values()} == {torch.bfloat16}
    assert {value.dtype for value in fp32.values()} == {torch.float32}
    assert all(torch.equal(bf16[name], fp32[name].to(torch.bfloat16)) for name in fp32)
    assert any(not torch.equal(bf16[name], old[name]) for name in old)
    loaded = AutoModelForCausalLM.from_pretrained(folder.checkpoint(2))
    assert loaded.dtype is torch.bfloat16


def test_a_finished_run_is_not_run_again_and_an_interrupted_one_is(recipe: Recipe, tmp_path: Path) -> None:
    folder = run(recipe, tmp_path / "out", threads=1)
    stamp = (folder.path / "run.json").stat().st_mtime_ns
    again = run(recipe, tmp_path / "out", threads=1)
    assert (again.path / "run.json").stat().st_mtime_ns == stamp
    end = folder.record.content()["end"]["hash"]
    folder.write_record(status="running")
    (folder.path / "metrics.jsonl").write_text('{"step": 1}\n{"st')
    resumed = run(recipe, tmp_path / "out", threads=1)
    assert resumed.status == "finished"
    assert resumed.record.content()["end"]["hash"] == end
    assert len(resumed.metrics) == 2


def test_a_run_that_fails_says_so_in_its_folder(content: dict[str, Any], start: Path, tmp_path: Path) -> None:
    (start / "tokenizer.json").unlink()
    (start / "tokenizer_config.json").unlink()
    with pytest.raises(ScrambleError, match="the run failed"):
        run(Recipe.model_validate(content), tmp_path / "out", threads=1)
    (folder,) = (tmp_path / "out").iterdir()
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "failed"
    assert "okenizer" in record["reason"]


def test_the_command_prints_one_row(recipe: Recipe, tmp_path: Path, command: Command) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    found = command("run", path, "--out", tmp_path / "out", "--threads", 1, "--format", "json", "--quiet")
    assert found.code == 0
    (row,) = found.json["rows"]
    assert (row["status"], row["seed"], row["steps"]) == ("finished", 1, 2)
    found = command("diff", f"{recipe.model}:{row['run']}/checkpoints/step-2", "--format", "json")
    assert 0 < next(r for r in found.json["rows"] if r["level"] == "model")["sparsity"] < 1
