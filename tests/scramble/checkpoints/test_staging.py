"""Copying a file in ranges: whatever the kernel offers, the copy is whole once the rest is overwritten."""

from __future__ import annotations

import errno
import importlib
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scramble.checkpoints import staging
from scramble.errors import TargetError

module = importlib.import_module("scramble.checkpoints.staging")


def refuse(*_: object) -> int:
    raise OSError(errno.EXDEV, "Invalid cross-device link")


@pytest.mark.parametrize("kernel", [None, refuse, lambda *_: 0])
@given(st.lists(st.integers(0, 20_000), max_size=8), st.integers(0, 20_000), st.integers(1, 9000))
def test_a_copy_and_what_replaces_its_ranges_are_the_whole_file(
    kernel: object, edges: list[int], size: int, chunk: int
) -> None:
    edges = sorted(min(edge, size) for edge in edges)
    ranges = list(zip(edges[::2], edges[1::2], strict=False))
    content = np.random.default_rng(size).bytes(size)
    new = bytearray(content)
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", chunk)
        if kernel:
            patch.setattr(os, "copy_file_range", kernel)
        source = Path(folder) / "source"
        source.write_bytes(content)
        with staging(Path(folder) / "out") as stage:
            stage.copy(source, "copy", ranges)
            for start, stop in ranges:
                new[start:stop] = b"x" * (stop - start)
                stage.overwrite("copy", start, memoryview(new)[start:stop])
            assert (stage.folder / "copy").read_bytes() == new
        assert source.read_bytes() == content


def test_a_source_that_became_shorter_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").write_bytes(b"x" * 1000)
    for name in ("copy_file_range", "sendfile"):  # what they answer at the end of a file
        monkeypatch.setattr(os, name, lambda *_: 0)
    monkeypatch.setattr(module.fcntl, "ioctl", refuse)
    with pytest.raises(TargetError, match="became shorter"), staging(tmp_path / "out") as stage:
        stage.copy(tmp_path / "source", "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
