"""The organism: deterministic, cached, a checkpoint like any other, of the task's characters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoTokenizer

import scramble
from scramble.checkpoints import open_checkpoint
from scramble.errors import RecipeError, TargetError
from scramble.runs.columns import TABLES
from scramble.runs.organism import Organism, organism, read_organism
from tests.conftest import Command

SMALL: dict[str, Any] = {
    **{"layers": 2, "hidden": 16, "heads": 2, "kv_heads": 1, "head_dim": 8, "neurons": 20},
    **{"steps": 2, "batch": 8, "task": {"name": "few-shot-sums", "low": 0, "high": 9, "size": 16}},
}


def small(**changes: Any) -> Organism:
    return Organism.model_validate(SMALL | changes)


@pytest.mark.train
def test_it_is_written_once_and_the_same_again(tmp_path: Path) -> None:
    steps = list[int]()
    first = organism(small(), tmp_path / "one", cache=tmp_path / "cache", threads=1)
    again = organism(
        small(),
        tmp_path / "two",
        cache=tmp_path / "cache",
        threads=1,
        progress=lambda step, total, metrics: steps.append(step),
    )
    anew = organism(small(), tmp_path / "three", cache=tmp_path / "other", threads=1)
    assert not steps
    assert first["hash"] == again["hash"] == anew["hash"] == open_checkpoint(tmp_path / "one").hash(full=True)
    assert json.loads((tmp_path / "one" / "organism.json").read_text()) == first
    other = organism(small(seed=1), tmp_path / "four", cache=tmp_path / "cache", threads=1)
    assert other["hash"] != first["hash"]
    with pytest.raises(TargetError, match="exists"):
        organism(small(), tmp_path / "one", cache=tmp_path / "cache", threads=1)


@pytest.mark.train
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_other_families_can_be_scrambled(family: str, tmp_path: Path) -> None:
    asked = small(family=family, more={"attention_bias": True})
    found = organism(asked, tmp_path / "base", cache=tmp_path / "cache", threads=1)
    assert found["weights"] > 1000
    scramble.apply(tmp_path / "base", tmp_path / "start", layers=[0, 1], symmetries="vo-scaling,vo-rotation")


@pytest.mark.train
def test_the_tokenizer_has_a_token_a_character(tmp_path: Path) -> None:
    organism(small(), tmp_path / "base", cache=tmp_path / "cache", threads=1)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    text = "12+3=15\n"
    assert len(tokenizer(text)["input_ids"]) == len(text)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.eos_token == "<eos>"


@pytest.mark.train
def test_the_command_prints_it(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    found = command(
        *("organism", tmp_path / "small.yaml", "--out", tmp_path / "base", "--steps", 1, "--format", "json")
    )
    (row,) = json.loads(found.out)["rows"]
    assert (row["steps"], row["family"]) == (1, "qwen3")
    assert list(row) == list(TABLES["organism"])
    assert row["hash"] == open_checkpoint(tmp_path / "base").hash(full=True)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"family": "nonesuch"}, "nonesuch"),
        ({"layer": 3}, "layer: unknown key"),
        ({"hidden": 0}, "hidden"),
        ({"optimizer": {"lr": 1}}, "lr: unknown key"),
    ],
)
def test_what_it_cannot_be_is_refused_and_nothing_is_written(
    changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    (tmp_path / "asked.yaml").write_text(yaml.safe_dump(SMALL | changes))
    with pytest.raises(RecipeError, match=says):
        organism(read_organism(tmp_path / "asked.yaml"), tmp_path / "base", cache=tmp_path / "cache")
    assert not (tmp_path / "base").exists()
