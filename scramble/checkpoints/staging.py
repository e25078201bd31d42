"""Writing a folder so that it appears whole or not at all.

Everything is written to a hidden folder beside the target and renamed once. Shards in it end in `.partial`
and `config.json` comes last, so that what an interrupted call leaves is no model to any loader. The next
call for the same target clears it away; a lock tells it from a call that is still running.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from scramble.errors import TargetError
from scramble.files import PARTIAL, flush, locked, sync

_LIBC = ctypes.CDLL(None, use_errno=True)
_FICLONE = 0x40049409
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_SYNC_FILE_RANGE_WRITE = 2
# Bytes copied before the disk is told to begin writing them.
_CHUNK = 1 << 24


class Staging:
    """A folder in the making; `commit` gives it the target's name."""

    def __init__(self, folder: Path, target: Path, force: bool) -> None:
        self.folder, self.target, self._force = folder, target, force

    def copy(self, source: Path, name: str, replaced: Sequence[tuple[int, int]] = ()) -> None:
        """Copy a file with the kernel's own copy, sharing blocks where the file system can.

        Args:
            replaced: byte ranges, apart and in order, that `overwrite` will fill; they may stay empty.
        """
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with source.open("rb") as reader, path.open("xb") as writer:
            _kernel_copy(reader.fileno(), writer.fileno(), replaced)

    def write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def overwrite(self, name: str, start: int, content: memoryview) -> None:
        """Replace a byte range of a file that has been copied; other threads may replace others."""
        descriptor = os.open(self.folder / name, os.O_WRONLY)
        try:
            while content:
                written = os.pwrite(descriptor, content[:_CHUNK], start)
                _begin_writing(descriptor, start, written)
                start, content = start + written, content[written:]
        finally:
            os.close(descriptor)

    def commit(self) -> None:
        """Take the `.partial` off every name, flush to disk, and rename the folder to the target."""
        self.sync()
        partials = sorted(
            self.folder.rglob("*" + PARTIAL), key=lambda path: path.name == "config.json" + PARTIAL
        )
        for path in partials:
            path.rename(path.with_name(path.name.removesuffix(PARTIAL)))
        for folder in {self.folder, *(path.parent for path in partials)}:
            flush(folder)
        if self._force and self.target.exists():
            _exchange(self.folder, self.target)
            shutil.rmtree(self.folder)
        else:
            self.folder.rename(self.target)
        flush(self.target.parent)

    def sync(self) -> None:
        """Flush every file; a full disk shows here at the latest."""
        sync(self.folder)


@contextmanager
def staging(target: Path, *, force: bool = False, keep: Path | None = None) -> Iterator[Staging]:
    """Make a folder that replaces nothing until `commit`; without a commit nothing is left behind.

    Args:
        force: replace the target if it is a checkpoint folder.
        keep: a folder that must survive: the target may not be it, lie in it, or hold it.

    Raises:
        TargetError: the target exists (and not `force`), is no checkpoint, is being written by another
            call, the disk is full, or the parent folder cannot be written.
    """
    target = target.absolute()
    _may_write(target, force, keep.resolve() if keep else None)
    folder = target.with_name(f".{target.name}{PARTIAL}")
    try:
        if folder.is_symlink():
            raise TargetError(f"{folder}: is a symbolic link; remove it")
        with locked(folder, "another call is writing here now"):
            try:
                for leftover in folder.iterdir():
                    shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
                yield Staging(folder, target, force)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TargetError(f"{target.parent}: the disk is full; nothing was written") from None
        raise TargetError(
            f"{error.filename or target}: {error.strerror or error}; nothing was written"
        ) from None


def _may_write(target: Path, force: bool, keep: Path | None) -> None:
    resolved = target.resolve()
    if keep and (keep == resolved or keep in resolved.parents or resolved in keep.parents):
        raise TargetError(f"{target}: is, holds or lies in the source {keep}, which is never changed")
    if target.is_symlink():
        raise TargetError(f"{target}: is a symbolic link; name the folder itself")
    if target.exists() and not force:
        raise TargetError(f"{target}: exists already; remove it, give another --out, or use --force")
    if target.exists() and not (target / "config.json").is_file():
        raise TargetError(f"{target}: --force replaces checkpoint folders only, and this is none")
    if not target.parent.is_dir():
        raise TargetError(f"{target.parent}: no such folder to write {target.name} in")


def _kernel_copy(source: int, target: int, left_out: Sequence[tuple[int, int]]) -> None:
    with suppress(OSError):
        fcntl.ioctl(target, _FICLONE, source)
        return
    size = os.fstat(source).st_size
    os.truncate(target, size)
    starts, stops = [0, *(stop for _, stop in left_out)], [*(start for start, _ in left_out), size]
    for start, stop in zip(starts, stops, strict=True):
        while start < stop:
            copied = _copy_some(source, target, start, min(_CHUNK, stop - start))
            _begin_writing(target, start, copied)
            start += copied


def _copy_some(source: int, target: int, start: int, count: int) -> int:
    """Copy up to `count` bytes to the same place; returns how many, at least one."""
    try:
        if copied := os.copy_file_range(source, target, count, start, start):
            return copied
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
            raise
    os.lseek(target, start, os.SEEK_SET)
    if copied := os.sendfile(target, source, start, count):
        return copied
    raise OSError(errno.EIO, "a file became shorter while it was copied")


def _begin_writing(descriptor: int, start: int, length: int) -> None:
    """Let the disk begin now with what `sync` will wait for. Only a hint: a failure means nothing."""
    _LIBC.sync_file_range(
        descriptor, ctypes.c_int64(start), ctypes.c_int64(length), ctypes.c_uint(_SYNC_FILE_RANGE_WRITE)
    )


def _exchange(new: Path, old: Path) -> None:
    """Swap two names in one step (renameat2, Linux 3.15 on)."""
    done = _LIBC.renameat2(
        _AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), ctypes.c_uint(_RENAME_EXCHANGE)
    )
    if done != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(old))
