"""The house rules that a machine can check."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [path for name in ("scramble", "runs", "interventions") for path in (ROOT / name).rglob("*.py")]


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_run_downward(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    above = {"scramble": {"runs", "interventions"}, "runs": {"interventions"}, "interventions": set()}[
        package
    ]
    assert not imports(path) & above
    if package != "runs":
        assert not imports(path) & {"trl", "vllm", "peft"}
    if path.name not in ("cli.py", "printing.py"):
        assert not imports(path) & {"typer", "rich"}
    assert not imports(path) & {"pickle", "dill", "joblib"}


def test_remote_code_is_never_trusted() -> None:
    assert not [path for path in FILES if "trust_remote_code" in path.read_text()]
