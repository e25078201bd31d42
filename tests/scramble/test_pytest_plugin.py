"""The plugin as another project uses it: pytest in a process of its own, on the guide's example."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scramble.operations.apply import apply
from scramble.pytest_plugin import assert_equivalent
from tests.models import Tiny

PAGE = Path(__file__).parents[2] / "docs/guide/checkpoints.md"


def test_the_guides_example_runs_and_fails_where_it_should(checkpoint: Path, tmp_path: Path) -> None:
    found = re.search(r"```python\n(# test_equivalence.py.*?)```", PAGE.read_text(), re.DOTALL)
    assert found, "the guide has no example"
    (tmp_path / "test_equivalence.py").write_text(found.group(1))
    mine = tmp_path / "model-scrambled"
    apply(checkpoint, mine, layers="all", check=False)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        str(tmp_path / "test_equivalence.py"),
    ]
    good = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert good.returncode == 0, good.stdout
    assert "1 passed" in good.stdout
    Tiny("qwen2", 2, 2, 8, layers=2, seed=99).build().bfloat16().save_pretrained(mine)
    (mine / "scramble.json").unlink()
    bad = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert bad.returncode == 1, bad.stdout
    assert "is not equivalent to" in bad.stdout


def test_the_fixture_is_the_function(scramble_equivalence: object, checkpoint: Path, tmp_path: Path) -> None:
    assert scramble_equivalence is assert_equivalent
    apply(checkpoint, tmp_path / "out", layers="0", check=False)
    assert_equivalent(checkpoint, tmp_path / "out")
    with pytest.raises(AssertionError, match="not equivalent"):
        assert_equivalent(
            checkpoint, Tiny("qwen2", 2, 2, 8, layers=2, seed=8).save(tmp_path / "x", torch.bfloat16)
        )
