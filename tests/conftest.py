"""Fixtures: one thread, no network, a command line that runs in this process."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"  # threads for each of a tiny model's tensors take longer than it
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from tests import typed
from tests.training import MARKS, REFUSAL, Guard

if TYPE_CHECKING:
    from tests.models import Tiny

typed.install()
GUARD = Guard()


def pytest_configure(config: pytest.Config) -> None:
    """Set the libraries up, but not in xdist's controller: it runs no test, and its workers wait for it."""
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        return
    import torch
    from hypothesis import HealthCheck, settings
    from transformers.utils import logging

    settings.register_profile(
        "scramble",
        deadline=None,
        max_examples=25,
        derandomize=bool(os.environ.get("CI")),
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    settings.load_profile("scramble")
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    GUARD.install()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A test may train if it has a mark that says so; before the fixtures of its module are made."""
    GUARD.allowed, GUARD.tried = any(map(item.get_closest_marker, MARKS)), False
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """A test that trained without the mark fails, whatever it made of the refusal."""
    report = yield
    if GUARD.tried and report.when == "call" and report.passed:
        report.outcome, report.longrepr = "failed", REFUSAL
    return report


@dataclass(frozen=True)
class Result:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


Command = Callable[..., Result]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run `scramble ARGS` in this process."""
    from scramble.cli.app import main

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["scramble", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium, for tests with the mark `browser`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def tiny() -> Tiny:
    """Biases, two KV heads with two query heads each, two layers."""
    from tests.models import Tiny

    return Tiny("qwen2", kv_heads=2, group=2, head_dim=8, layers=2, seed=3)


@pytest.fixture
def checkpoint(tiny: Tiny, tmp_path: Path) -> Path:
    """The tiny model in bf16."""
    import torch

    return tiny.save(tmp_path / "model", torch.bfloat16)
