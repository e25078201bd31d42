"""`scramble runs compare` against the commands that measure one run, and by definition."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from runs.comparison.compare import compare
from runs.comparison.report import matched, write_report
from runs.folder import RunFolder
from runs.recipe import Recipe
from runs.run import run
from scramble.errors import CheckpointError, SelectionError
from tests.conftest import Command
from tests.models import edit_config, weights
from tests.scramble.geometry.test_tables import MODULES

pytestmark = pytest.mark.filterwarnings("ignore")
EVALUATION = {"size": 4, "samples": 1, "k": [1], "max_new_tokens": 4}


@pytest.fixture
def trained(content: dict[str, Any], tmp_path: Path) -> list[RunFolder]:
    """GRPO, and supervised steps with a mask, from one start."""
    extra = {"kl": {"every": 1, "prompts": 2}, "evaluation": EVALUATION}
    sft = {"algorithm": {"name": "sft", "batch": 8}, "mask": {"kind": "safe", "rank": 2}, "name": "sft"}
    recipes = [content | extra | {"name": "grpo"}, content | sft | {"steps": 3, "fp32_steps": []}]
    return [run(Recipe.model_validate(recipe), tmp_path / "out", threads=1) for recipe in recipes]


def test_a_row_is_what_the_commands_say_of_each_run(
    trained: list[RunFolder], start: Path, command: Command, tmp_path: Path
) -> None:
    said = command("runs", "compare", *(one.path for one in trained), "--format", "json", "--quiet")
    rows = said.json["rows"]
    assert [row["name"] for row in rows] == ["grpo", "sft"]
    for row, one, end in zip(rows, trained, ("step-2/fp32", "step-3"), strict=True):
        ends = f"{start}:{one.path / 'checkpoints' / end}"
        changed = command("diff", ends, "--by", "model", "--format", "json").json["rows"]
        assert row["sparsity"] == changed[0]["sparsity"]
        assert row["sparsity_matrices"] == changed[2]["sparsity"]
        (shift,) = command("spectra", ends, "--by", "model", "--format", "json").json["rows"]
        assert row["nss"] == shift["nss"]
        assert row["angle_max"] == max(shift["angle_left_max"], shift["angle_right_max"])
        shares = command("principal", ends, "--by", "model", "--format", "json").json["rows"]
        (top,) = (share for share in shares if share["mask"] == "principal")
        for name, column in {"": "overlap", "_chance": "chance"}.items():
            assert row[f"principal{name}"] == top[f"{column}_update"]
        assert row["principal_magnitude_matched"] == top["magnitude_matched_update"]
        before, after = weights(start), weights(one.path / "checkpoints" / end)
        square = sum(float((after[name].double() - before[name].double()).square().sum()) for name in before)
        assert row["update_norm"] == pytest.approx(square**0.5, rel=1e-6)
    assert rows[0]["kl_to_start"] == trained[0].metrics[-1]["kl_to_start"] > 0
    evaluated = trained[0].record["evaluation"]["rows"]
    assert [rows[0]["pass@1_before"], rows[0]["pass@1_after"]] == [row["pass"] for row in evaluated]
    assert (rows[1]["mask"], rows[1]["algorithm"], rows[1]["steps"]) == ("safe", "sft", 3)
    losses = [row["loss"] for row in trained[1].metrics]
    assert (rows[1]["loss_first"], rows[1]["loss_last"]) == (losses[0], losses[-1])


def test_runs_from_two_starts_keep_their_order_and_their_figures(
    content: dict[str, Any], trained: list[RunFolder], start: Path, command: Command, tmp_path: Path
) -> None:
    scrambled = tmp_path / "scrambled"
    assert command("apply", start, "--layers", "1", "--out", scrambled, "--quiet").code == 0
    other = Recipe.model_validate(content | {"model": str(scrambled), "name": "scrambled"})
    paths = [trained[0].path, run(other, tmp_path / "out", threads=1).path, trained[1].path]
    together = compare(paths)
    assert list(together.runs["name"]) == ["grpo", "scrambled", "sft"]
    alone = pd.concat([compare([path]).runs for path in paths], ignore_index=True)
    whole, each = (table[together.runs.columns].astype(object) for table in (together.runs, alone))
    pd.testing.assert_frame_equal(whole.fillna("none"), each.fillna("none"))
    assert set(zip(together.pairs["run_a"], together.pairs["run_b"], strict=True)) == {("grpo", "sft")}
    assert matched(together.runs)[0].startswith("The runs begin at 2 different checkpoints")
    assert set(together.places["module"].dropna()) >= set(MODULES)
    assert together.places["layer"].dropna().unique().tolist() == [0, 1]


def test_what_is_matched_is_said() -> None:
    table = pd.DataFrame({"start": ["a", "a"], "steps": [20, 20], "update_norm": [2.0, 2.05]})
    assert matched(table) == [
        "All runs begin at one checkpoint.",
        "Steps are matched: 20 each.",
        "Lengths of the update are matched within 5 %: ||dW|| is 2 to 2.05.",
    ]
    apart = matched(table.assign(steps=[20, 9], update_norm=[2.0, 2.2]))
    assert apart[1:] == [
        "Steps are not matched: 9 to 20.",
        "Lengths of the update are not matched within 5 %: ||dW|| is 2 to 2.2.",
    ]
    assert "not matched" in matched(table.assign(update_norm=[0.0, 0.0]))[2]


def test_what_cannot_be_compared_is_one_line(
    trained: list[RunFolder], start: Path, command: Command, tmp_path: Path
) -> None:
    first, second = (one.path for one in trained)
    with pytest.raises(SelectionError, match="listed twice"):
        compare([first, first])
    with pytest.raises(SelectionError, match="not a run folder"):
        compare([tmp_path])
    record = json.loads((second / "run.json").read_text())
    (second / "run.json").write_text(json.dumps(record | {"status": "failed"}))
    with pytest.raises(SelectionError, match=r"not finished \(failed\)"):
        compare([first, second])
    config = (start / "config.json").read_text()
    edit_config(start, rms_norm_eps=1e-3)
    with pytest.raises(CheckpointError, match="is not what it was when the run began"):
        compare([first])
    (start / "config.json").write_text(config)
    shutil.rmtree(first / "checkpoints" / "step-2")
    found = command("runs", "compare", first)
    assert (found.code, found.out, found.err.count("\n")) == (2, "", 1)
    assert "its last checkpoint" in found.err
    shutil.move(start, tmp_path / "elsewhere")
    with pytest.raises((CheckpointError, SelectionError), match="is not there"):
        compare([first])


@pytest.fixture
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        yield chromium
        chromium.close()


@pytest.mark.browser
def test_the_page_stands_alone(trained: list[RunFolder], browser: Any, tmp_path: Path) -> None:
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    seen: list[str] = []
    page.on("console", lambda message: seen.append(message.text))
    page.on("request", lambda request: seen.append(request.url) if request.url.startswith("http") else None)
    folder = tmp_path / "report"
    page.goto(write_report(compare([one.path for one in trained]), folder, "sft & grpo").as_uri())
    assert seen == []
    assert page.title() == "sft & grpo - scramble"
    assert page.locator("figure svg").count() == 3
    assert page.evaluate("document.documentElement.scrollWidth") <= 1300
    assert "Steps are not matched: 2 to 3." in page.inner_text("body")
    for name in ("overview.svg", "by-layer.png", "by-module.png", "runs.csv", "places.csv", "pairs.csv"):
        assert (folder / name).stat().st_size > 0
