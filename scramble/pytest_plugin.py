"""Equivalence of checkpoints as an assertion, for other projects' tests. Pytest loads this by itself.

def test_my_transform_keeps_the_function(scramble_equivalence, tmp_path):
    my_transform("model/", tmp_path / "out")
    scramble_equivalence("model/", tmp_path / "out")
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


def assert_equivalent(base: str | Path, other: str | Path) -> None:
    """Fail unless two checkpoint folders compute the same function up to rounding (`scramble.verify`).

    Raises:
        AssertionError: they do not; the message has the measured errors and their bounds.
        ScrambleError: they cannot be compared, or what differs is not seen in the logits (`UndecidedError`).
    """
    from scramble.operations.verify import verify

    found = verify(Path(base), Path(other))
    assert found.verdict == "equivalent", f"{other} is not equivalent to {base}: {found.failed()}"


@pytest.fixture
def scramble_equivalence() -> Callable[[str | Path, str | Path], None]:
    """The function `assert_equivalent(base, other)`."""
    return assert_equivalent
