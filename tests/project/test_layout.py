"""The house rules that a machine can check."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

from tests.project.sources import FILES, MODULES, ROOT, TESTS, imports, name_of, own

LONGEST, MOST_MODULES = 350, 12
# From the ground up: a package imports what stands before it, never what stands behind.
ORDER = (
    *(
        "_version",
        "errors",
        "child",
        "files",
        "runrecord",
        "present.notebook",
        "runfolder",
        "columns",
        "present",
        "internals",
    ),
    *("architecture", "families"),
    *("checkpoints", "symmetries", "transforms", "models", "equivalence", "operations", "measures.pairs"),
    *("measures.updates", "measures.geometry", "measures.maps", "measures.curvature", "measures"),
    *("analysis", "", "pytest_plugin", "cli", "__main__"),
    *(
        "runs.columns",
        "runs.section",
        "runs.internals",
        "runs.sandbox",
        "runs.tasks.data",
        "runs.tasks.workers",
        "runs.tasks",
    ),
    *("runs.trainers", "runs.algorithms", "runs.recipe", "runs.records", "runs.engine", "runs.worker"),
    "runs.organism",
    *("runs.comparison", "runs.cli", "runs", "interventions"),
)


def place(module: str) -> int:
    """Where a module's package stands in `ORDER`."""
    inner = module.removeprefix("scramble").removeprefix(".")
    parts = inner.split(".")
    for length in range(len(parts), -1, -1):
        if (prefix := ".".join(parts[:length])) in ORDER and (prefix or not inner):
            return ORDER.index(prefix)
    raise AssertionError(f"{module} has no place in ORDER")


@pytest.mark.parametrize("module", sorted(MODULES))
def test_arrows_run_downward(module: str) -> None:
    upward = [other for other in own(MODULES[module]) if place(other) > place(module)]
    assert not upward


def test_no_file_imports_itself_by_way_of_others() -> None:
    arrows = {module: own(path) for module, path in MODULES.items()}
    done: list[str] = []

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if module not in done:
            for other in sorted(arrows[module]):
                visit(other, (*way, module))
            done.append(module)

    for module in arrows:
        visit(module, ())


@pytest.mark.parametrize("path", [*FILES, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST


def test_packages_are_small() -> None:
    folders = {path.parent for path in [*FILES, *TESTS]}
    counts = {str(one.relative_to(ROOT)): len([*one.glob("*.py")]) for one in folders}
    assert {name: count for name, count in counts.items() if count > MOST_MODULES} == {}


def test_every_package_is_installed() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {name_of(path) for path in FILES if path.name == "__init__.py"}
    assert sorted(config["packages"]) == sorted(found)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_libraries_stay_where_they_belong(path: Path) -> None:
    found = {name.partition(".")[0] for name in imports(path)}
    if path.relative_to(ROOT).parts[0] != "runs":
        assert not found & {"trl", "vllm", "peft"}
    if path.parent.name != "cli" and path.name not in ("cli.py", "table.py", "progress.py"):
        assert not found & {"typer", "rich"}
    assert not found & {"pickle", "dill", "joblib"}


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_test_module_is_imported(path: Path) -> None:
    """Helpers live in modules of their own, so that a test can be moved and no other breaks."""
    found = {part for name in imports(path) for part in name.split(".")}
    assert not {part for part in found if part.startswith("test_")}


def ignores_all(node: ast.AST) -> bool:
    """Whether a call, or a test's mark, ignores warnings without a message or a category that says which."""
    if not isinstance(node, ast.Call):
        return False
    if ast.unparse(node.func).rpartition(".")[2] not in ("filterwarnings", "simplefilter", "catch_warnings"):
        return False
    named = {one.arg: one.value for one in node.keywords if one.arg in ("action", "message", "category")}
    given = [ast.unparse(one).strip("'\"") for one in (*node.args, *named.values())]
    action, *which = [part for text in given for part in text.split(":")] or [""]
    return action == "ignore" and all(part in ("", "Warning", ".*") for part in which)


@pytest.mark.parametrize("path", [*FILES, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_warnings_are_ignored_by_name(path: Path) -> None:
    assert not [ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if ignores_all(node)]


def test_the_settings_of_pytest_name_what_they_ignore() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    first, *rest = settings["filterwarnings"]
    assert first == "error"
    assert all(len(one.split(":")) >= 3 and one.split(":")[1] and one.split(":")[2] for one in rest)


@pytest.mark.parametrize(
    ("text", "all_of_them"),
    [
        ('pytest.mark.filterwarnings("ignore")', True),
        ('pytest.mark.filterwarnings("ignore::Warning")', True),
        ('pytest.mark.filterwarnings("ignore:lbfgs")', False),
        ('pytest.mark.filterwarnings("ignore::DeprecationWarning")', False),
        ('pytest.mark.filterwarnings("error")', False),
        ('warnings.simplefilter("ignore")', True),
        ('warnings.simplefilter("ignore", Warning)', True),
        ('warnings.simplefilter(action="ignore", category=UserWarning)', False),
        ('warnings.filterwarnings("ignore", "TRL currently")', False),
        ('warnings.catch_warnings(action="ignore")', True),
        ('warnings.catch_warnings(action="ignore", category=UserWarning)', False),
        ("warnings.catch_warnings(record=True)", False),
    ],
)
def test_what_ignores_all_warnings_is_known(text: str, all_of_them: bool) -> None:
    assert ignores_all(ast.parse(text, mode="eval").body) == all_of_them


def test_remote_code_is_never_trusted() -> None:
    assert not [path for path in FILES if "trust_remote_code" in path.read_text()]
