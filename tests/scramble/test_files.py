"""Files and folders appear whole or not at all; one lock, which dies with its process; errors in one line."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scramble import files
from scramble.errors import RunError, TargetError, one_line
from scramble.files import is_locked, locked, whole, whole_folder, write_whole


@given(content=st.text() | st.binary(), before=st.none() | st.binary())
def test_a_file_holds_what_was_written(content: str | bytes, before: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.unlink(missing_ok=True)
    if before is not None:
        path.write_bytes(before)
    content = (
        content
        if isinstance(content, bytes)
        else "".join(c for c in content if not 0xD800 <= ord(c) < 0xE000)
    )
    write_whole(path, content)
    assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")

    def interrupted() -> None:
        with whole(tmp_path / "file") as partial:
            partial.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("file", "old")]


def test_everything_is_flushed_before_it_takes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = list[str]()
    monkeypatch.setattr(files, "flush", lambda path: flushed.append(path.name))
    for name in ("rename", "replace"):
        real = getattr(Path, name)
        monkeypatch.setattr(
            Path, name, lambda old, new, real=real: (flushed.append(f"named {new.name}"), real(old, new))[1]
        )
    write_whole(tmp_path / "file", "text")
    with whole_folder(tmp_path / "folder") as partial:
        (partial / "inner").mkdir()
        (partial / "inner" / "file").write_text("x")
    assert flushed[:3] == ["file.partial", "named file", tmp_path.name]
    assert sorted(flushed[3:-2]) == ["file", "folder.partial", "inner"]
    assert flushed[-2:] == ["named folder", tmp_path.name]


def test_what_an_interrupted_call_left_in_a_folder_is_cleared(tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "old").write_text("half")
    with whole_folder(tmp_path / "out") as partial:
        (partial / "new").write_text("all")
        assert not (tmp_path / "out").exists()
    assert [one.name for one in tmp_path.rglob("*")] == ["out", "new"]


def test_one_call_at_a_time_and_no_file_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert is_locked(folder)  # there is none: no saying
    with locked(folder, "in use"):
        assert is_locked(folder)
        with pytest.raises(TargetError, match="run: in use"), locked(folder, "in use"):
            pass
    assert not is_locked(folder)
    with locked(folder, "in use"):
        pass
    assert list(folder.iterdir()) == []


def test_a_lock_waits_for_who_only_looks(tmp_path: Path) -> None:
    """Any number may look at once, and a looker is no owner."""
    looking = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    assert not is_locked(tmp_path)
    threading.Timer(0.05, os.close, [looking]).start()
    with locked(tmp_path, "in use"):
        assert is_locked(tmp_path)


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    ready, told = multiprocessing.Pipe()

    def hold() -> None:
        with locked(tmp_path, "in use"):
            told.send(True)
            time.sleep(60)

    process = multiprocessing.get_context("fork").Process(target=hold)
    process.start()
    ready.recv()
    assert is_locked(tmp_path)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert not is_locked(tmp_path)


@pytest.mark.parametrize(
    "change", [lambda path: path.rmdir(), lambda path: path.rename(path.parent / "other")]
)
def test_a_folder_that_was_taken_away_meanwhile_is_not_held(
    change: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, real = tmp_path / "folder", fcntl.flock
    monkeypatch.setattr(fcntl, "flock", lambda *arguments: (change(folder), real(*arguments))[1])
    with pytest.raises(TargetError, match="in use"), locked(folder, "in use"):
        pass


def test_an_error_is_one_line() -> None:
    assert one_line(ValueError("a\n  b")) == "ValueError: a b"
    assert one_line(RunError("a\n b " + "c" * 500)) == "a b " + "c" * 500
    assert len(one_line(ValueError("x" * 500))) == 300
    assert len(one_line(ValueError("x" * 500), None)) == 512
