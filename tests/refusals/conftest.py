"""One world for all refusals; a copy of it where the input must be made bad."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.refusals.world import make


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Never written to."""
    return make(tmp_path_factory.mktemp("world") / "here")
