"""The figures of `curvature` and `gates` show the numbers of the tables that are printed beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scramble.measures.pairs.ends import CheckpointPair
from tests import drawn
from tests.conftest import Command
from tests.fake_runs import train
from tests.scramble.measures.curvature.conftest import text

PROXIES = ("rho_principal", "rho_principal_given_magnitude", "rho_magnitude", "rho_update")
SHORT = ("--length", 8, "--sequences", 2, "--plot", "figure.svg", "--format", "json", "--quiet")


def test_curvature_draws_its_table(
    run: CheckpointPair, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    figures = drawn.keep(monkeypatch)
    found = command(
        "curvature", text(run), "--prompts", prompts, *SHORT, "--probes", 1, "--by", "layer,module"
    )
    assert found.code == 0, found.err
    table = pd.DataFrame(found.json["rows"])
    kinds = list(dict.fromkeys(table["curvature"]))
    for kind, (left, right) in zip(kinds, np.array(figures[0].axes).reshape(-1, 2), strict=True):
        for ax, level in ((left, "layer"), (right, "module")):
            rows = table[(table["curvature"] == kind) & (table["level"] == level)].dropna(subset=[level])
            rows = rows.sort_values(level)
            for (at, heights), column in zip(drawn.lines(ax), PROXIES, strict=False):
                order = np.argsort(at)
                drawn.same(np.asarray(heights)[order], rows[column])
                drawn.same(np.asarray(at)[order], rows["layer"] if level == "layer" else range(len(rows)))
            # The four proxies, and the line at zero.
            assert len(drawn.lines(ax)) == len(PROXIES) + 1


def test_gates_draw_their_table(
    run: CheckpointPair, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    figures = drawn.keep(monkeypatch)
    other = train(run.start.folder, tmp_path / "step-7", 1)
    ask = (text(run), f"{run.start.folder}:{other}", "--prompts", prompts, *SHORT, "--by", "model,module")
    found = command("gates", *ask)
    assert found.code == 0, found.err
    table = pd.DataFrame(found.json["rows"])
    whole, modules = table[table["level"] == "model"], table[table["level"] == "module"]
    left, middle, right = figures[0].axes
    expected = [
        (left, [whole["kl_norm"], np.sqrt(2 * whole["kl_reverse"].clip(lower=0)), whole["fisher_norm"]]),
        (middle, [whole["update_norm"], whole["spectral_norm"]]),
    ]
    for ax, columns in expected:
        for (at, heights), column in zip(drawn.lines(ax), columns, strict=True):
            drawn.same(at, [3, 7])
            drawn.same(heights, column)
    runs = [rows.sort_values("module") for _, rows in modules.groupby("run", sort=False)]
    columns = [rows[name] for rows in runs for name in ("hidden", "hidden_square")]
    for (at, heights), column in zip(drawn.lines(right), columns, strict=True):
        drawn.same(np.asarray(heights)[np.argsort(at)], column)
    assert drawn.ticks(right) == sorted(set(modules["module"]))
