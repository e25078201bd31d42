"""Every column that a command prints stands in the schema, with a unit where it has one and a definition."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import scramble
from scramble.columns import columns, described
from scramble.errors import SelectionError
from scramble.interventions.columns import TABLES
from tests.conftest import Command
from tests.fake_runs import train
from tests.models import Tiny, with_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, two ends of runs from it, a scrambled start with an end, and a text."""
    made = tmp_path_factory.mktemp("columns")
    base = with_tokenizer(Tiny("llama", 2, 2, 8, layers=2, seed=1).save(made / "base", torch.bfloat16))
    for seed in (1, 2):
        with_tokenizer(train(base, made / f"end-{seed}", seed))
    scramble.apply(base, made / "start", layers="all")
    train(made / "start", made / "end-3", 3)
    (made / "text.txt").write_text("1+1=2 0+2=2 2+0=2 " * 30)
    return made


def pair(at: Path, end: str, start: str = "base") -> str:
    return f"{at / start}:{at / end}"


COMMANDS: dict[str, Callable[[Path], list[object]]] = {
    "inspect": lambda at: ["inspect", at / "base"],
    "verify": lambda at: ["verify", at / "base", at / "start"],
    "verify --by layer": lambda at: ["verify", at / "base", at / "start", "--by", "layer"],
    "apply": lambda at: ["apply", at / "base", "--layers", "0", "--out", at / "other", "--force"],
    "fold": lambda at: ["fold", at / "base", "--out", at / "folded", "--force"],
    "invert": lambda at: ["invert", at / "start", "--out", at / "back", "--force"],
    "diff": lambda at: ["diff", pair(at, "end-1"), "--by", "model,module,layer,layer-module,tensor"],
    "overlap": lambda at: [
        *("overlap", pair(at, "end-1"), pair(at, "end-2"), pair(at, "end-3", "start")),
        *("--row-column", "--placebos", "1"),
    ],
    "overlap --mean": lambda at: ["overlap", pair(at, "end-1"), pair(at, "end-2"), "--mean"],
    "decompose": lambda at: ["overlap", pair(at, "end-1"), pair(at, "end-2"), "--decompose"],
    "decompose --mean": lambda at: [
        *("overlap", pair(at, "end-1"), pair(at, "end-2"), "--decompose", "--mean"),
    ],
    "spectra": lambda at: ["spectra", pair(at, "end-1")],
    "principal": lambda at: ["principal", pair(at, "end-1")],
    "consensus": lambda at: ["consensus", pair(at, "end-1"), pair(at, "end-2")],
    "rates": lambda at: ["rates", pair(at, "end-1"), pair(at, "end-2")],
    "correlate": lambda at: ["rates", pair(at, "end-1"), pair(at, "end-2"), "--correlate"],
    "gates": lambda at: ["gates", pair(at, "end-1"), "--prompts", at / "text.txt", "--length", "8"],
    "curvature": lambda at: [
        *("curvature", pair(at, "end-1"), "--prompts", at / "text.txt", "--length", "8", "--sequences", "2"),
    ],
}


# Of several towers, and of means over pairs.
RARE = {"tower", "pairs", "jaccard_low", "jaccard_high"}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_columns_that_are_printed_are_described(name: str, folder: Path, command: Command) -> None:
    found = command(*COMMANDS[name](folder), "--format", "json", "--quiet")
    assert found.code == 0, found.err
    printed = {column for row in found.json["rows"] for column in row}
    table = name.removesuffix(" --mean")
    assert all(one["definition"] for one in described(table, printed).values())
    if "--mean" not in name:  # what is described and never printed would be no column at all
        assert TABLES[table].keys() - printed <= RARE


def test_a_measures_frame_brings_the_description_of_its_columns(folder: Path) -> None:
    found = scramble.diff(pair(folder, "end-1"))
    assert found.attrs["columns"].keys() == set(found)
    assert found.attrs["columns"]["sparsity"]["unit"] == "fraction"
    assert found.attrs["meta"]["start"] == str(folder / "base")


@pytest.mark.parametrize(
    "measure", ["diff", "overlap", "spectra", "principal", "consensus", "rates", "gates"]
)
def test_help_ends_with_the_columns(measure: str, command: Command) -> None:
    text = " ".join(command(measure, "--help").out.split())
    for column in TABLES[measure].values():
        assert column.name in text
        assert column.definition.split(";")[0][:40] in text


def test_what_is_not_in_the_schema_is_refused() -> None:
    with pytest.raises(SelectionError, match="no column 'nonsense'"):
        described("diff", ["level", "nonsense"])
    with pytest.raises(ValueError, match="columns"):
        columns("a | b")
