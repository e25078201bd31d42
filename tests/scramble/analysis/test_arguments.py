"""A run is one thing however it is given, in every function and command; so are layers and modules."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal

import scramble
from scramble.errors import DamagedRunError, SelectionError
from tests.conftest import Command
from tests.fake_runs import train
from tests.models import Tiny


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and two run folders; the first has bf16 and float32 ends of its last step that differ."""
    made = tmp_path_factory.mktemp("runs")
    base = Tiny("llama", 2, 2, 8, layers=3, seed=1).save(made / "base", torch.bfloat16)
    for name in ("one", "two"):
        run = made / name
        for step in (2, 10, 9):
            train(base, run / f"checkpoints/step-{step}", step + len(name + name[:1]), torch.bfloat16)
        record = {"status": "running", "seed": 1, "start": {"path": str(base)}}
        (run / "run.json").write_text(json.dumps(record))
        (run / "recipe.yaml").write_text("steps: 10\n")
    train(base, made / "one/checkpoints/step-10/fp32", 77)
    train(base, made / "two/checkpoints/step-10/fp32", 78)
    return made


def ends(at: Path, name: str) -> tuple[Path, Path]:
    return at / "base", at / name / "checkpoints" / "step-10" / "fp32"


ONE: dict[str, Callable[..., pd.DataFrame]] = {
    "diff": scramble.diff,
    "spectra": scramble.spectra,
    "principal": scramble.principal,
}
SEVERAL: dict[str, Callable[..., pd.DataFrame]] = {
    "overlap": scramble.overlap,
    "consensus": scramble.consensus,
}


@pytest.mark.parametrize("name", ONE)
def test_text_pair_run_folder_and_open_run_are_one_run(name: str, at: Path, command: Command) -> None:
    start, end = ends(at, "one")
    given = [f"{start}:{end}", (start, end), at / "one", str(at / "one"), [at / "one"]]
    found = [ONE[name](run, progress=False) for run in [*given, scramble.open_run(at / "one")]]
    for table in found[1:]:
        assert_frame_equal(table, found[0])
        assert table.attrs == found[0].attrs
    printed = command(name, at / "one", "--format", "json", "--quiet").json
    assert printed["meta"] == found[0].attrs["meta"]
    assert printed["rows"] == command(name, given[0], "--format", "json", "--quiet").json["rows"]


@pytest.mark.parametrize("name", SEVERAL)
def test_lists_hold_several_runs_in_any_form(name: str, at: Path) -> None:
    pairs = [ends(at, "one"), ends(at, "two")]
    found = SEVERAL[name](pairs)
    assert_frame_equal(SEVERAL[name]([at / "one", f"{pairs[1][0]}:{pairs[1][1]}"]), found)


@pytest.mark.parametrize("name", ["diff", "overlap"])
def test_layers_and_modules_are_the_rows_of_all_that_they_name(name: str, at: Path) -> None:
    runs = at / "one" if name == "diff" else [at / "one", at / "two"]
    measure = {**ONE, **SEVERAL}[name]
    whole = measure(runs, by="tensor")
    for layers, modules in (([0, 2], None), ("0,2", ["q_proj", "o_proj"]), (None, "down_proj")):
        wanted = pd.Series(True, index=whole.index)
        if layers is not None:
            wanted &= whole["layer"].isin([0, 2])
        if modules is not None:
            wanted &= whole["module"].isin(modules.split(",") if isinstance(modules, str) else modules)
        chosen = measure(runs, by=["tensor"], layers=layers, modules=modules)
        assert len(chosen) == wanted.sum() > 0
        assert_frame_equal(chosen, whole[wanted].reset_index(drop=True), check_dtype=False)


def test_a_pair_is_no_list_and_a_measure_of_one_run_takes_one(at: Path) -> None:
    with pytest.raises(SelectionError, match="takes one run, 2 are given"):
        scramble.diff([at / "one", at / "two"])
    with pytest.raises(SelectionError, match="two runs or more"):
        scramble.overlap(ends(at, "one"))
    with pytest.raises(SelectionError, match="no such run folder"):
        scramble.diff("nothing")


def test_a_damaged_run_folder_is_said_to_be_one(at: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("steps: 1\n")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(DamagedRunError, match=r"run\.json is missing"):
        scramble.diff(tmp_path)


def test_wrong_alignments_are_frames_of_their_own(at: Path, tmp_path: Path) -> None:
    scramble.apply(at / "base", tmp_path / "start", layers=1, symmetries=scramble.VoRotation())
    other = (tmp_path / "start", train(tmp_path / "start", tmp_path / "end", 5))
    found = scramble.overlap([at / "one", other], by="tensor", placebos=2)
    frames = ["raw", "aligned", "placebo-0", "placebo-1"]
    assert set(found["frame"]) == set(frames)
    moved = found[found["tensor"] == "model.layers.1.self_attn.v_proj.weight"].set_index("frame")
    assert moved.loc[frames, "update_cosine"].nunique() == 4
    kept = found[found["tensor"] == "model.layers.0.self_attn.v_proj.weight"].set_index("frame")
    assert kept.loc[frames, "update_cosine"].nunique() == 1
