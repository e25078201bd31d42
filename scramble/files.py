"""Files and folders that appear whole or not at all, flushed to the disk; and the one lock of a folder."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scramble.errors import TargetError

PARTIAL = ".partial"
"""What the name of a file or folder ends in while it is written."""
# Seconds between attempts to lock: who only looks (`is_locked`) lets go at once.
_PATIENCE = (0.1, 0.1)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Write a file so that it takes its name when it is whole, whenever power fails.

    Yields:
        The name to write to, beside the file's own. After an error it is taken away, and what stood under
        the file's own name is as it was.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        yield partial
        flush(partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    flush(path.parent)


def write_whole(path: Path, content: str | bytes) -> None:
    """Put a text (as UTF-8) or bytes in the place of a file: whole or not at all, flushed."""
    with whole(path) as partial:
        partial.write_bytes(content if isinstance(content, bytes) else content.encode())


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Write a folder so that it takes its name, which nothing may have, when it is whole.

    Yields:
        An empty folder beside it. What an interrupted call left there is cleared away by the next.
    """
    partial = path.with_name(path.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    sync(partial)
    partial.rename(path)
    flush(path.parent)


def sync(folder: Path) -> None:
    """Flush a folder and everything in it; a full disk shows here at the latest."""
    for path in [*folder.rglob("*"), folder]:
        flush(path)


def flush(path: Path) -> None:
    """Flush one file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path, busy: str) -> Iterator[None]:
    """Make a folder where there is none, and hold its lock, which dies with the process.

    The lock is the folder's own (flock): the library filelock locks a file beside it, which would stay in a
    folder of a model or a run.

    Args:
        busy: what is said of a folder that another process, or another call in this one, holds.

    Raises:
        TargetError: it does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        for patience in (*_PATIENCE, None):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if patience is None:
                    raise TargetError(f"{folder}: {busy}") from None
                time.sleep(patience)
        # Who held it may have renamed it or taken it away.
        if not folder.exists() or not os.path.samestat(folder.stat(), os.fstat(descriptor)):
            raise TargetError(f"{folder}: {busy}")
        yield
    finally:
        os.close(descriptor)


def is_locked(folder: Path) -> bool:
    """Whether somebody holds a folder's lock now, or there is no saying."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # any number may look at once
        return False
    except OSError:
        return True
    finally:
        os.close(descriptor)
