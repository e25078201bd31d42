"""The command line as a user meets it: start-up, formats, streams, errors."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from scramble.cli.app import app
from scramble.present.printing import records
from scramble.symmetries import SYMMETRIES
from tests.conftest import Command
from tests.models import Tiny

HEAVY = ("torch", "transformers", "pandas", "scipy", "matplotlib", "trl", "numpy", "pydantic")


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys\nfrom scramble.cli.app import main\nsys.argv = ['scramble', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\nassert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("apply", "invert", "verify", "inspect", "diff", "overlap", "run", "experiment", "demo"):
        assert command in done.stdout


def test_commands_join_once_however_often_the_command_is_called(command: Command) -> None:
    for _ in range(3):
        assert command("--help").code == 0
    names = [one.name or one.callback.__name__ for one in app.registered_commands if one.callback]
    assert len(names) == len(set(names)) > 10


def test_apply_without_verification_needs_no_torch(checkpoint: Path) -> None:
    script = (
        "import sys\nfrom scramble.cli.app import main\n"
        f"sys.argv = ['scramble', 'apply', '--layers', '0', '--no-verify', {str(checkpoint)!r}]\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "assert 'torch' not in sys.modules and 'pandas' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert checkpoint.with_name("model-scrambled").exists()


def test_json_is_the_whole_of_standard_output(checkpoint: Path, command: Command) -> None:
    found = command("apply", "--layers", "0,1", checkpoint, "--format", "json")
    assert found.code == 0
    assert found.json["meta"]["verdict"] == "equivalent"
    assert found.json["meta"]["out"] == str(checkpoint.with_name("model-scrambled"))
    assert {"tensor", "before", "after", "dtype", "rounding_error"} == set(found.json["rows"][0])
    assert "verifying" in found.err
    quiet = command("apply", "--layers", "0", checkpoint, "--format", "json", "--quiet", "--force")
    assert quiet.err == ""


def test_csv_has_the_rows(checkpoint: Path, command: Command) -> None:
    found = command("inspect", checkpoint, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(found.out)))
    assert [row["symmetry"] for row in rows] == list(SYMMETRIES)
    assert rows[0]["group"] == "O(8)^2"


def test_inspect_tells_what_was_scrambled(checkpoint: Path, command: Command) -> None:
    assert command("inspect", checkpoint, "--format", "json").json["meta"]["scrambles"] == "none"
    command("apply", "--layers", "0", checkpoint, "--symmetry", "vo-rotation", "--no-verify")
    target = checkpoint.with_name("model-scrambled")
    assert (
        command("inspect", target, "--format", "json").json["meta"]["scrambles"] == "vo-rotation in layers 0"
    )


def test_tracebacks_come_with_debug_only(checkpoint: Path, command: Command) -> None:
    from scramble.errors import SelectionError

    assert command("apply", "--layers", "9", checkpoint).err.startswith("scramble: --layers 9")
    with pytest.raises(SelectionError):
        command("--debug", "apply", "--layers", "9", checkpoint)


@pytest.mark.parametrize(
    "arguments", [["nonesuch"], ["apply"], ["apply", "--nonesuch", "x"], ["apply", "a", "b"]]
)
def test_usage_errors_exit_2(arguments: list[str], command: Command) -> None:
    found = command(*arguments)
    assert found.code == 2
    assert found.out == ""


def test_a_model_that_is_nowhere_is_one_line(command: Command) -> None:
    for model in ("no/such-model", "./nowhere", "no-such-model"):
        found = command("inspect", model)
        assert (found.code, found.err.count("\n")) == (2, 1)
        assert model in found.err


def test_a_hub_id_is_looked_up_with_its_revision(
    checkpoint: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked: list[tuple[str, str | None]] = []

    def snapshot_download(repo_id: str, *, revision: str | None, **_: object) -> str:
        asked.append((repo_id, revision))
        return str(checkpoint)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    found = command("apply", "--layers", "0", "org/name@v1", "--no-verify", "--format", "json")
    assert found.code == 0
    assert asked == [("org/name", "v1")]
    assert (tmp_path / "name-scrambled" / "scramble.json").exists()


def test_version(command: Command) -> None:
    from scramble._version import __version__

    assert command("--version").out.strip() == __version__


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
def test_a_table_file_holds_the_rows_that_are_printed(
    suffix: str, tmp_path: Path, command: Command, tiny: Tiny
) -> None:
    base, end = tiny.save(tmp_path / "a"), replace(tiny, seed=5).save(tmp_path / "b")
    file = tmp_path / f"rows.{suffix}"
    found = command("diff", f"{base}:{end}", "--table", file, "--format", "json")
    rows = found.json["rows"]
    if suffix == "json":
        read = json.loads(file.read_text())["rows"]
    else:
        frame = pd.read_csv(file) if suffix == "csv" else pd.read_parquet(file)
        read = records(frame)
    assert [row["sparsity"] for row in read] == pytest.approx([row["sparsity"] for row in rows])
    assert [row["module"] for row in read] == [row["module"] for row in rows]
    assert command("diff", f"{base}:{end}", "--table", tmp_path / "no" / "x.csv").code == 2
    assert command("diff", f"{base}:{end}", "--table", tmp_path / "x.txt").err.count("\n") == 1
