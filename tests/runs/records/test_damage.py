"""A run folder that cannot be read: every command says so in one line, and nothing in it is changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from scramble.errors import DamagedRunError, RunError
from scramble.interventions.experiment import plan, read_experiment
from scramble.runfolder import RunFolder
from scramble.runs.engine.run import run
from scramble.runs.recipe.recipe import Recipe
from scramble.runs.records.folder import WritableRun
from tests.conftest import Command
from tests.experiments import RECIPE, make_base, write
from tests.models import digest

pytestmark = pytest.mark.train
FILES = ("run.json", "metrics.jsonl", "recipe.yaml")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs of one experiment of a single arm, and the recipe of the first."""
    folder = tmp_path_factory.mktemp("finished")
    base = make_base(folder)
    read = read_experiment(write(folder, arms={"base": []}, recipe=RECIPE | {"resume_every": 0}))
    for one in plan(read, folder / "out"):
        run(one.recipe, folder / "out", threads=1)
    (folder / "prompts.txt").write_text("1 + 0 = 1\n" * 9)
    (folder / "recipe.yaml").write_text(
        yaml.safe_dump(read.recipe_for("base", 1, str(base)).model_dump(mode="json"))
    )
    return folder


@pytest.fixture
def copied(finished: Path) -> Path:
    """The same, whose `out` may be damaged: other files stay where the runs say that they are."""
    out = finished / "damaged"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(finished / "out", out)
    return finished


def runs(folder: Path) -> list[Path]:
    return sorted((folder / "damaged").glob("tiny-*"))


def one_run(folder: Path) -> Path:
    (found,) = (folder / "damaged").glob("*seed1-*")
    return found


COMMANDS: dict[str, Callable[[Path], list[object]]] = {
    "run": lambda at: ["run", at / "recipe.yaml", "--out", at / "damaged", "--threads", 1],
    "list": lambda at: ["runs", "list", at / "damaged"],
    "show": lambda at: ["runs", "show", one_run(at)],
    "compare": lambda at: ["runs", "compare", *runs(at)],
    "rates": lambda at: ["rates", one_run(at)],
    **{
        f"experiment {name}": lambda at, name=name: [
            "experiment",
            name,
            at / "experiment.yaml",
            "--out",
            at / "damaged",
        ]
        for name in ("plan", "run", "contrast", "report")
    },
    **{
        name: lambda at, name=name: [name, f"{at / 'base'}:{one_run(at) / 'checkpoints' / 'step-3' / 'fp32'}"]
        for name in ("diff", "spectra", "principal", "curvature", "gates")
    },
    **{
        name: lambda at, name=name: [
            name,
            *(f"{at / 'base'}:{run / 'checkpoints' / 'step-3'}" for run in runs(at)),
        ]
        for name in ("overlap", "consensus")
    },
}
for name in ("curvature", "gates"):
    COMMANDS[name] = lambda at, ask=COMMANDS[name]: [*ask(at), "--prompts", at / "prompts.txt"]
DAMAGE: dict[str, Callable[[Path], Any]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "list": lambda path: path.write_bytes(b"[]\n"),
    "scalar": lambda path: path.write_bytes(b"3\n"),
    "without keys": lambda path: path.write_bytes(b"{}\n"),
    "deep": lambda path: path.write_bytes(b"[" * 100_000),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "link to nothing": lambda path: (path.unlink(), path.symlink_to("nothing")),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_folder_is_one_line_and_stays_as_it_is(
    file: str, damage: str, name: str, copied: Path, command: Command
) -> None:
    DAMAGE[damage](one_run(copied) / file)
    refused(name, file, copied, command)


def refused(name: str, file: str, copied: Path, command: Command) -> None:
    """The command says in one line which file is damaged, and changes nothing; `list` has a row."""
    before = digest(copied)
    found = command(*COMMANDS[name](copied), "--format", "json")
    assert digest(copied) == before
    if name == "list":
        row = next(row for row in found.json["rows"] if "seed1" in row["run"])
        assert (found.code, row["status"]) == (0, "damaged")
        assert file in row["problem"]
        return
    assert (found.code, found.out, found.err.count("\n")) == (2, "", 1), found.err
    assert "damaged" in found.err
    assert file in found.err


@settings(max_examples=40)
@given(data=st.data())
def test_a_file_that_is_cut_anywhere_is_refused_by_every_command(
    data: st.DataObject, copied: Path, command: Command
) -> None:
    """But for the last byte, the end of the last line: a record is the same without it."""
    file, name = data.draw(st.sampled_from(FILES)), data.draw(st.sampled_from(sorted(COMMANDS)))
    path = one_run(copied) / file
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 2))])
        refused(name, file, copied, command)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("file", FILES)
def test_no_cut_of_a_finished_runs_files_reads_as_another_state(file: str, copied: Path) -> None:
    """At every byte (every fifth of the metrics): finished, with the same content, or damaged."""
    folder = RunFolder(one_run(copied))
    content, path = folder.read(), folder.path / file
    whole, same = path.read_bytes(), 0
    for length in range(0, len(whole), 5) if file == "metrics.jsonl" else range(len(whole)):
        path.write_bytes(whole[:length])
        try:
            found = folder.read()
        except DamagedRunError:
            continue
        assert found == content
        same += 1
    assert same == (file == "run.json")


def test_every_command_accepts_what_is_not_damaged(copied: Path, command: Command) -> None:
    """So that what is refused above is refused for the damage."""
    for name, ask in COMMANDS.items():
        found = command(*ask(copied), "--format", "json")
        assert found.code == 0, (name, found.err)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_record_of_a_newer_version_is_refused(name: str, copied: Path, command: Command) -> None:
    path = one_run(copied) / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    refused(name, "run.json has format 2, written by a newer version of scramble", copied, command)


def test_a_record_without_a_format_is_of_the_first(copied: Path) -> None:
    folder = RunFolder(one_run(copied))
    content = json.loads((folder.path / "run.json").read_text())
    assert content.pop("format") == 1
    (folder.path / "run.json").write_text(json.dumps(content))
    assert folder.status == "finished"
    assert folder.finished.format == 1
    assert folder.finished.content() == content


@pytest.mark.parametrize("wrong", [0, -1, "1", None, True, 1.5, [1]])
def test_a_format_that_is_none_is_damage(wrong: Any, copied: Path) -> None:
    folder = RunFolder(one_run(copied))
    content = json.loads((folder.path / "run.json").read_text())
    (folder.path / "run.json").write_text(json.dumps(content | {"format": wrong}))
    with pytest.raises(DamagedRunError, match="format is missing or wrong"):
        folder.read()


def test_nothing_is_ever_begun_in_a_finished_or_damaged_folder(copied: Path) -> None:
    folder = WritableRun(one_run(copied))
    recipe = Recipe.model_validate(yaml.safe_load((folder.path / "recipe.yaml").read_text()))
    before = digest(folder.path)
    with pytest.raises(RunError, match="finished"):
        folder.begin(recipe)
    with pytest.raises(RunError, match="finished"):
        folder.cut_back(1)
    assert digest(folder.path) == before
    (folder.path / "run.json").write_text('{"status": "fini')
    before = digest(folder.path)
    for change in (
        folder.drop_state,
        lambda: folder.begin(recipe),
        lambda: folder.cut_back(1),
        lambda: folder.write_record(status="failed"),
    ):
        with pytest.raises(DamagedRunError, match=r"run\.json"):
            change()
    assert digest(folder.path) == before


def test_another_name_of_a_damaged_run_does_not_train_it_again(copied: Path, command: Command) -> None:
    """The folder is found by its hash, whatever its recipe was called."""
    (one_run(copied) / "run.json").unlink()
    content = yaml.safe_load((copied / "recipe.yaml").read_text())
    (copied / "renamed.yaml").write_text(yaml.safe_dump(content | {"name": "other"}))
    found = command("run", copied / "renamed.yaml", "--out", copied / "damaged", "--threads", 1)
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert "damaged" in found.err


def test_an_interrupted_run_may_end_in_half_a_line(copied: Path) -> None:
    folder = WritableRun(one_run(copied))
    record = json.loads((folder.path / "run.json").read_text())
    (folder.path / "run.json").write_text(json.dumps(record | {"status": "running"}))
    rows = (folder.path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder.path / "metrics.jsonl").write_text(rows[0] + rows[1][:-5])
    assert folder.status == "interrupted"
    assert [row["step"] for row in folder.metrics] == [1]
    assert folder.record.status == "running"
