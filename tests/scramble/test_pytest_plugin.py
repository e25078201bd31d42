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


@pytest.mark.train
def test_the_guides_example_runs_and_fails_where_it_should(checkpoint: Path, tmp_path: Path) -> None:
    found = re.search(r"```python\n(# test_equivalence.py.*?)```", PAGE.read_text(), re.DOTALL)
    assert found, "the guide has no example"
    (tmp_path / "test_good.py").write_text(found.group(1))
    (tmp_path / "test_bad.py").write_text(found.group(1).replace("model-scrambled", "other"))
    apply(checkpoint, tmp_path / "model-scrambled", layers="all", check=False)
    Tiny("qwen2", 2, 2, 8, layers=2, seed=99).save(tmp_path / "other", torch.bfloat16)
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    assert "PASSED test_good.py" in done.stdout
    assert "FAILED test_bad.py" in done.stdout
    assert "other is not equivalent to model" in done.stdout


def test_the_fixture_is_the_function(scramble_equivalence: object, checkpoint: Path, tmp_path: Path) -> None:
    assert scramble_equivalence is assert_equivalent
    apply(checkpoint, tmp_path / "out", layers="0", check=False)
    assert_equivalent(checkpoint, tmp_path / "out")
    with pytest.raises(AssertionError, match="not equivalent"):
        assert_equivalent(
            checkpoint, Tiny("qwen2", 2, 2, 8, layers=2, seed=8).save(tmp_path / "x", torch.bfloat16)
        )
