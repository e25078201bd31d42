"""Chat templates in a folder of their own go where the tokenizer goes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from scramble.runs.engine.run import run, start_hash
from scramble.runs.recipe.recipe import Recipe
from tests.conftest import Command
from tests.models import Tiny, with_tokenizer

FOLDER = "additional_chat_templates"
TEMPLATES = {"tool_use": "{{ messages }} tools", "rag": "{{ messages }} rag"}


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """As transformers itself writes a tokenizer with several templates."""
    folder = with_tokenizer(
        Tiny("llama", 3, 2, 8, layers=2, tied=True, seed=1).save(tmp_path / "start", torch.bfloat16)
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = {"default": "{{ messages }}", **TEMPLATES}
    tokenizer.save_pretrained(folder)
    assert sorted(path.name for path in (folder / FOLDER).iterdir()) == ["rag.jinja", "tool_use.jinja"]
    return folder


def has_them(start: Path, folder: Path) -> bool:
    names = [f"{FOLDER}/{name}.jinja" for name in TEMPLATES]
    same = all((folder / name).read_bytes() == (start / name).read_bytes() for name in names)
    loaded = AutoTokenizer.from_pretrained(folder).chat_template
    return same and loaded == AutoTokenizer.from_pretrained(start).chat_template


def test_outputs_carry_them(start: Path, tmp_path: Path, command: Command) -> None:
    (start / "onnx").mkdir()
    out, back, folded = tmp_path / "out", tmp_path / "back", tmp_path / "folded"
    found = command("apply", start, "--symmetry", "head-permutation:layers=0", "--out", out)
    assert found.code == 0, found.err
    assert "not carried over: onnx" in found.err
    assert command("invert", out, "--out", back).code == 0
    assert command("fold", start, "--out", folded).code == 0
    assert has_them(start, out)
    assert has_them(start, back)
    assert has_them(start, folded)


@pytest.mark.train
def test_ends_carry_them(start: Path, content: dict[str, Any], tmp_path: Path) -> None:
    folder = run(Recipe.model_validate(content | {"model": str(start)}), tmp_path / "runs", threads=1)
    assert has_them(start, folder.checkpoint(2))
    assert has_them(start, folder.checkpoint(2, fp32=True))


def test_they_belong_to_the_start(start: Path) -> None:
    before = start_hash(start)
    (start / FOLDER / "rag.jinja").write_text("{{ other }}")
    changed = start_hash(start)
    shutil.rmtree(start / FOLDER)
    assert len({before, changed, start_hash(start)}) == 3
