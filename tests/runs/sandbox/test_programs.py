"""Programs and tests get the verdict that `python solution.py` gives when the tests stand at its end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from scramble.runs.sandbox.sandbox import Sandbox
from tests.runs.sandbox.generated_programs import generated
from tests.training import swept

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
CASES = yaml.safe_load(Path(__file__).with_name("programs.yaml").read_text())


def python(folder: Path, program: str, tests: str) -> bool:
    """Whether `python solution.py` comes to the end of the tests that stand after the program."""
    (folder / "solution.py").write_text(f"{program}\n{tests}\nprint('the end', flush=True)\n")
    found = subprocess.run(
        [sys.executable, "solution.py"],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return found.returncode == 0 and found.stdout.endswith("the end\n")


@pytest.mark.parametrize("name", CASES)
def test_right_programs_pass(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    assert python(tmp_path, case["program"], case["tests"])
    assert Sandbox().run(case["program"], case["tests"]).passed


@pytest.mark.parametrize("name", [name for name in CASES if "wrong" in CASES[name]])
def test_wrong_programs_do_not(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    assert not python(tmp_path, case["wrong"], case["tests"])
    assert not Sandbox().run(case["wrong"], case["tests"]).passed


@pytest.mark.parametrize("seed", swept(range(40), kept=10))
def test_generated_programs_get_the_verdict_of_python(seed: int, tmp_path: Path) -> None:
    program, tests = generated(seed)
    assert Sandbox().run(program, tests).passed == python(tmp_path, program, tests)


def test_the_generated_programs_are_right_and_wrong(tmp_path: Path) -> None:
    verdicts = {python(tmp_path, *generated(seed)) for seed in range(10)}
    assert verdicts == {True, False}
