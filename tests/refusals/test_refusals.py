"""Every command refuses what it cannot use in one line, and touches nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import Command
from tests.refusals import checkpoints, measures, runs
from tests.refusals.harness import ALWAYS, Refusal, commands, nothing

REFUSALS: list[Refusal] = [*checkpoints.REFUSALS, *measures.REFUSALS, *runs.REFUSALS]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda one: f"{one.line}: {one.name}")
def test_it_is_refused_in_one_line_and_nothing_is_touched(
    refusal: Refusal, world: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = world
    if refusal.make is not nothing:
        folder = shutil.copytree(world, tmp_path / "here")
        refusal.make(folder)
    monkeypatch.chdir(folder)
    refusal.check(folder, command)


def test_every_command_refuses_what_is_not_there_what_is_something_else_and_a_wrong_value() -> None:
    covered = {name: {one.name for one in REFUSALS if one.command == name} for name in commands()}
    missing = {name: sorted(set(ALWAYS) - names) for name, names in covered.items()}
    # A folder without runs has none to list.
    assert {name: lack for name, lack in missing.items() if lack} == {"runs list": [ALWAYS[1]]}
