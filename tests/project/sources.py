"""The sources of this project: its files, the modules that they are, and what these import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = {"scramble": "scramble", "runs": "scramble.runs", "interventions": "scramble.interventions"}
FILES = [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
TESTS = list((ROOT / "tests").rglob("*.py"))


def name_of(path: Path) -> str:
    """The name under which a file is imported."""
    first, *rest = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([PACKAGES[first], *(rest[:-1] if rest[-1] == "__init__" else rest)])


MODULES = {name_of(path): path for path in FILES}


@cache
def imports(path: Path) -> tuple[str, ...]:
    """The names of what a file imports, wherever in it, for types only too."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in names)


def own(path: Path) -> set[str]:
    """The modules of this project that a file imports."""
    return {name for name in imports(path) if name in MODULES} - {name_of(path)}
