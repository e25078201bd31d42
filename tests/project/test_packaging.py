"""What is built and installed: one import name, its data and types, beside strangers of the other names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pydantic
import pytest

from tests.project.sources import ROOT

pytestmark = pytest.mark.train  # builds and type-checks: slow
SOURCES = ("scramble", "runs", "interventions", "pyproject.toml", "README.md", "LICENSE")
USER = """
import scramble.interventions.verdict
import scramble.runs.section
import scramble.errors

reveal_type(scramble.errors.install("runs"))
reveal_type(scramble.runs.section.Section)
reveal_type(scramble.interventions.verdict.__name__)
"""
LOOK = """
import importlib.metadata as metadata, pathlib, sys
here = pathlib.Path(sys.argv[1])
import interventions, runs, scramble, scramble.interventions, scramble.runs
assert (runs.stranger, interventions.stranger) == (True, True)
for ours in (scramble, scramble.runs, scramble.interventions):
    assert here in pathlib.Path(ours.__file__).parents, ours.__file__
found = metadata.distribution("rlvr-scramble").entry_points
(entry,) = found.select(group="console_scripts")
assert entry.name == "scramble" and callable(entry.load())
assert len([one.load() for one in found.select(group="scramble.commands")]) == 6
"""


def python(*arguments: object, cwd: Path, **environment: str) -> str:
    """What a Python without this checkout prints; `PYTHONPATH` comes before what is installed."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def build(kind: str, source: Path, out: Path) -> Path:
    """A wheel or an sdist, by the back end that `pyproject.toml` names, without network."""
    out.mkdir(parents=True, exist_ok=True)
    code = f"import sys; from setuptools.build_meta import build_{kind} as build; build(sys.argv[1])"
    python("-c", code, out, cwd=source)
    (found,) = out.iterdir()
    return found


def unpacked(wheel: Path, target: Path) -> Path:
    """A wheel as installers lay it out: a pure one is unpacked."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the repository holds, without what was built in it."""
    target = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(path, target / name)
    for name in ("tests", "benchmarks"):
        (target / name).mkdir()
        (target / name / "__init__.py").touch()
    return target


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", checkout, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def from_sdist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    sdist = build("sdist", checkout, tmp_path_factory.mktemp("sdist"))
    folder = tmp_path_factory.mktemp("unpacked")
    python("-m", "tarfile", "--extract", sdist, folder, cwd=folder)
    (source,) = folder.iterdir()
    return build("wheel", source, tmp_path_factory.mktemp("wheel-of-sdist"))


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other people's distributions `runs` and `interventions`, installed."""
    site = tmp_path_factory.mktemp("strangers")
    for name in ("runs", "interventions"):
        source = tmp_path_factory.mktemp(name)
        (source / name).mkdir()
        (source / name / "__init__.py").write_text("stranger = True\n")
        (source / "pyproject.toml").write_text(
            f'[project]\nname = "{name}"\nversion = "1"\n[build-system]\nrequires = ["setuptools"]\n'
            'build-backend = "setuptools.build_meta"\n'
        )
        unpacked(build("wheel", source, source / "dist"), site)
    return site


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_a_wheel_holds_every_module_and_its_data_under_one_name(wheel: Path, from_sdist: Path) -> None:
    expected = set()
    for name, inside in (("scramble", ""), ("runs", "scramble/"), ("interventions", "scramble/")):
        for path in (ROOT / name).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                expected.add(inside + str(path.relative_to(ROOT)))
    assert names(wheel) == expected
    assert names(from_sdist) == names(wheel)
    data = {Path(name).suffix for name in names(wheel)}
    assert data == {".py", ".j2", ".yaml", ".typed"}


@pytest.mark.parametrize("way", ["wheel", "from_sdist", "editable"])
def test_it_stands_beside_strangers_of_other_names(
    way: str, checkout: Path, strangers: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    home = tmp_path / "site"
    if way == "editable":
        code = "import sys; from setuptools.build_meta import build_editable as build; build(sys.argv[1])"
        (tmp_path / "dist").mkdir()
        python("-c", code, tmp_path / "dist", cwd=checkout)
        (built,) = (tmp_path / "dist").iterdir()
        unpacked(built, home)
        (path,) = home.glob("*.pth")
        look, ours = f"import sys; exec({path.read_text()!r})\n" + LOOK, checkout
    else:
        unpacked(request.getfixturevalue(way), home)
        look, ours = LOOK, home
    libraries = Path(pydantic.__file__).parents[1]
    path = os.pathsep.join(map(str, (home, strangers, libraries)))
    python("-S", "-c", look, ours, cwd=tmp_path, PYTHONPATH=path)  # -S: without this checkout's own links


def test_types_reach_its_users(wheel: Path, tmp_path: Path) -> None:
    """PEP 561: one mark in the top package is for all below it."""
    site = unpacked(wheel, tmp_path / "site")
    (tmp_path / "user.py").write_text(USER)
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nignore_missing_imports = True\nfollow_imports = skip\n"
        "[mypy-scramble.*]\nfollow_imports = silent\n"
    )
    found = python("-m", "mypy", "user.py", cwd=tmp_path, PYTHONPATH=str(site), MYPYPATH="")
    assert "is missing library stubs or py.typed" not in found
    assert 'Revealed type is "str"' in found.replace("builtins.", "")
    assert "Section" in found
    assert 'Revealed type is "Any"' not in found
