"""The measures print today what they printed when these files were written.

The first line of a file names the commit that wrote it. A file changes only with a reason in its commit.
"""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import Command
from tests.scramble.measures import synthetic

RECORDED = Path(__file__).parent / "recorded"


@pytest.mark.parametrize("name", synthetic.COMMANDS)
def test_the_measures_print_what_they_printed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    """Counts and texts are equal, other numbers to nine digits."""
    monkeypatch.chdir(tmp_path)
    synthetic.write(tmp_path)
    if any("scrambled" in word for word in synthetic.COMMANDS[name]):
        assert command("apply", "base", *synthetic.SCRAMBLE, "--out", "scrambled", "--no-verify").code == 0
    found = command(*synthetic.COMMANDS[name], "--table", "found.csv", "--quiet")
    assert found.code == 0, found.err
    printed = io.StringIO(Path("found.csv").read_text().replace(f"{tmp_path}/", ""))
    recorded = pd.read_csv(RECORDED / f"{name}.csv", comment="#")
    pd.testing.assert_frame_equal(pd.read_csv(printed), recorded, rtol=1e-9, atol=1e-15)


def test_a_file_is_there_for_every_command_and_names_its_commit() -> None:
    files = {path.stem: path.read_text().splitlines()[0] for path in RECORDED.iterdir()}
    assert files == dict.fromkeys(synthetic.COMMANDS, files["diff"])
    assert files["diff"].startswith("# written by commit ")
