"""`scramble runs compare` against the commands that measure one run, and by definition."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from scramble.errors import CheckpointError, DamagedRunError, SelectionError
from scramble.runrecord import Evaluation
from scramble.runs.comparison import figures
from scramble.runs.comparison.compare import compare
from scramble.runs.comparison.report import matched, write_report
from scramble.runs.engine.run import run
from scramble.runs.recipe.recipe import Recipe
from scramble.runs.records.folder import WritableRun
from scramble.runs.records.summary import before_and_after, quarters
from tests.conftest import Command
from tests.models import MODULES, edit_config, weights

pytestmark = pytest.mark.train
EVALUATION = {"size": 4, "samples": 1, "k": [1], "max_new_tokens": 4}


@pytest.fixture
def trained(content: dict[str, Any], tmp_path: Path) -> list[WritableRun]:
    """GRPO, and supervised steps with a mask, from one start."""
    extra = {"kl": {"every": 1, "prompts": 2}, "evaluation": EVALUATION}
    sft = {"algorithm": {"name": "sft", "batch": 8}, "mask": {"kind": "safe", "rank": 2}, "name": "sft"}
    recipes = [content | extra | {"name": "grpo"}, content | sft | {"steps": 3, "fp32_steps": []}]
    return [run(Recipe.model_validate(recipe), tmp_path / "out", threads=1) for recipe in recipes]


def test_a_row_is_what_the_commands_say_of_each_run(
    trained: list[WritableRun], start: Path, command: Command, tmp_path: Path
) -> None:
    said = command("runs", "compare", *(one.path for one in trained), "--format", "json", "--quiet")
    rows = said.json["rows"]
    assert [row["name"] for row in rows] == ["grpo", "sft"]
    for row, one, end in zip(rows, trained, ("step-2/fp32", "step-3"), strict=True):
        ends = f"{start}:{one.path / 'checkpoints' / end}"
        changed = command("diff", ends, "--by", "model", "--format", "json").json["rows"]
        assert row["sparsity"] == changed[0]["sparsity"]
        assert row["sparsity_matrices"] == changed[2]["sparsity"]  # llama: no biases
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
    evaluated = trained[0].record.content()["evaluation"]["rows"]
    assert [rows[0]["pass@1_before"], rows[0]["pass@1_after"]] == [row["pass"] for row in evaluated]
    assert (rows[1]["mask"], rows[1]["algorithm"], rows[1]["steps"]) == ("safe", "sft", 3)
    assert [row["end"] for row in rows] == ["fp32", "bf16"]
    assert [row["learning_rate"] for row in rows] == [1e-3] * 2
    losses = [row["loss"] for row in trained[1].metrics]
    assert (rows[1]["loss_first"], rows[1]["loss_last"]) == (losses[0], losses[-1])
    scores = [row["score"] for row in trained[0].metrics]
    assert (rows[0]["score_first"], rows[0]["score_last"]) == (scores[0], scores[-1])


def test_quarters_are_means_over_steps_that_have_a_finite_value() -> None:
    rows: list[dict[str, Any]] = [{"reward": value} for value in (1, 2, None, 3, 4, 5, 6, 7, 8)]
    rows.insert(3, {"loss": 9.0})
    assert quarters(rows, "reward") == {"reward_first": 1.5, "reward_last": 7.5}
    assert quarters(rows, "loss") == {"loss_first": 9.0, "loss_last": 9.0}
    assert quarters([], "loss") == {"loss_first": None, "loss_last": None}


def test_scores_before_and_after_are_those_of_the_first_and_the_last_step() -> None:
    rows = [{"step": step, "k": 1, "pass": step / 10} for step in (0, 5, 7)]
    assert before_and_after(Evaluation.model_validate({"rows": rows}), 7) == {
        "pass@1_before": 0.0,
        "pass@1_after": 0.7,
    }
    assert before_and_after(Evaluation.model_validate({"rows": rows[:2]}), 7) == {"pass@1_before": 0.0}
    assert before_and_after(None, 7) == {}


def test_the_report_has_figures_and_tables_that_read_back(
    trained: list[WritableRun], command: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "report"
    paths = [one.path for one in trained]
    said = command("runs", "compare", *paths, "--report", folder, "--title", "a & b", "--format", "json")
    page = (folder / "report.html").read_text()
    assert said.json["meta"]["report"] == str(folder / "report.html")
    assert "<title>a &amp; b - scramble</title>" in page
    assert page.count("<svg") == 3
    for text in ("Steps are not matched: 2 to 3.", "Some ends are float32 and some bf16"):
        assert text in page
    assert "different held-out prompts" in page
    runs, places, pairs = (pd.read_csv(folder / f"{name}.csv") for name in ("runs", "places", "pairs"))
    assert runs["name"].tolist() == ["grpo", "sft"]
    assert runs["nss"].tolist() == [row["nss"] for row in said.json["rows"]]
    assert set(places["level"]) == {"layer", "module"}
    assert len(pairs) == 1
    assert pairs["same_seed"].all()
    one = write_report(compare(paths[:1]), tmp_path / "one", "alone")
    assert "Steps are matched" not in one.read_text()
    assert not (tmp_path / "one" / "pairs.csv").exists()


def test_more_runs_than_lines_have_an_overview(
    trained: list[WritableRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "LINES", 1)
    page = write_report(compare([one.path for one in trained]), tmp_path / "report", "many").read_text()
    assert page.count("<svg") == 1
    assert "Figures by layer and module are drawn for up to seven runs" in page


def test_runs_from_two_starts_keep_their_order_and_their_figures(
    content: dict[str, Any], trained: list[WritableRun], start: Path, command: Command, tmp_path: Path
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
    table = table.assign(name=["a", "b"], task="sums", held_out=None, end="fp32")
    assert matched(table) == [
        "All runs begin at one checkpoint.",
        "Steps are matched: 20 each.",
        "Norms of the update are matched within 5 %: ||dW|| is 2 to 2.05.",
    ]
    apart = matched(table.assign(steps=[20, 9], update_norm=[2.0, 2.2]))
    assert apart[1:] == [
        "Steps are not matched: 9 to 20.",
        "Norms of the update are not matched within 5 %: ||dW|| is 2 to 2.2.",
    ]
    assert "not matched" in matched(table.assign(update_norm=[0.0, 0.0]))[2]
    third = pd.concat([table, table[:1].assign(name="c", steps=9, update_norm=3.0)], ignore_index=True)
    assert matched(third)[1:] == [
        "Steps are not matched: 9 to 20; matched are a and b.",
        "Norms of the update are not matched within 5 %: ||dW|| is 2 to 3; matched are a and b.",
    ]
    assert "different tasks" in matched(table.assign(task=["sums", "code"]))[2]
    assert matched(table.assign(end=["fp32", "bf16"]))[3].startswith("Some ends are float32")
    assert matched(table[:1]) == []


def test_what_cannot_be_compared_is_one_line(
    trained: list[WritableRun], start: Path, command: Command, tmp_path: Path
) -> None:
    first, second = (one.path for one in trained)
    with pytest.raises(SelectionError, match="listed twice"):
        compare([first, first.parent / "." / ".." / first.parent.name / first.name])
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
    shutil.move(start, tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"its start .* is not there any more"):
        compare([first])
    shutil.move(tmp_path / "elsewhere", start)
    (tmp_path / "file").write_text("mine")
    shutil.rmtree(first / "checkpoints" / "step-2")
    for arguments, message in (
        ((first,), "no last checkpoint"),
        ((first, "--report", tmp_path / "file"), "cannot be a folder for a report"),
        ((first, "--alpha", 1), "a fraction of the weights must be above 0 and below 1"),
    ):
        found = command("runs", "compare", *arguments)
        assert (found.code, found.out, found.err.count("\n")) == (2, "", 1)
        assert message in found.err
    (first / "run.json").write_text('{"status": "finished"}')
    with pytest.raises(DamagedRunError, match="damaged"):
        compare([first])


def test_mixed_toolchains_are_named_and_change_no_value(
    trained: list[WritableRun], command: Command, tmp_path: Path
) -> None:
    paths = [one.path for one in trained]
    page = tmp_path / "report" / "report.html"
    ask = ("runs", "compare", *paths, "--report", page.parent)
    alike = command(*ask, "--format", "json")
    assert "toolchains" not in alike.json["meta"]
    assert "toolchains" not in alike.err
    assert "made in different ways" not in page.read_text()
    record = json.loads((paths[1] / "run.json").read_text())
    mine = record["versions"]["torch"]
    record["versions"]["torch"] = "0.1"
    (paths[1] / "run.json").write_text(json.dumps(record))
    mixed = command(*ask, "--format", "json")
    said = f"torch {mine} in {alike.json['rows'][0]['name']}, 0.1 in {alike.json['rows'][1]['name']}"
    assert mixed.json["meta"]["toolchains"] == said
    assert f"toolchains: {said}\n" in mixed.err
    assert f"made in different ways: {said}." in page.read_text()
    assert mixed.json["rows"] == alike.json["rows"]
    assert said in " ".join(command(*ask).out.split())


@pytest.mark.browser
def test_the_page_stands_alone(trained: list[WritableRun], browser: Any, tmp_path: Path) -> None:
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    seen: list[str] = []
    page.on("console", lambda message: seen.append(message.text))
    page.on("request", lambda request: seen.append(request.url) if request.url.startswith("http") else None)
    found = compare([one.path for one in trained])
    page.goto(write_report(found, tmp_path / "report", "sft & grpo").as_uri())
    assert seen == []
    assert page.title() == "sft & grpo - scramble"
    assert page.locator("figure svg").count() == 3
    assert page.evaluate("document.documentElement.scrollWidth") <= 1300
    assert "Steps are not matched: 2 to 3." in page.inner_text("body")
