"""The notebook of the demo runs on an experiment like it, and is committed without outputs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import Command
from tests.docs.blocks import REPO
from tests.experiments import RECIPE, make_base, write

PATH = REPO / "docs" / "guide" / "demo.ipynb"


def notebook() -> nbformat.NotebookNode:
    return nbformat.read(PATH, as_version=4)


def test_the_notebook_has_ten_cells_and_no_outputs() -> None:
    cells = notebook().cells
    assert len(cells) == 10
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]


def test_the_notebook_imports_the_public_api_alone() -> None:
    code = "\n".join(cell.source for cell in notebook().cells if cell.cell_type == "code")
    assert set(re.findall(r"^(?:import|from) (\S+)", code, re.MULTILINE)) == {"pathlib", "pandas", "scramble"}


@pytest.mark.train
def test_the_notebook_runs(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its table is what `scramble overlap` prints for the same runs."""
    monkeypatch.chdir(tmp_path)
    make_base(tmp_path)
    recipe = RECIPE | {
        "algorithm": {"name": "dapo", **RECIPE["algorithm"]},
        "evaluation": {"size": 8, "samples": 1, "k": [1]},
        "kl": {"every": 3, "prompts": 2, "max_new_tokens": 2},
    }
    experiment = write(tmp_path, name="demo", recipe=recipe)
    assert command("experiment", "run", experiment, "--quiet").code == 0

    shown = notebook()
    shown.cells.append(nbformat.v4.new_code_cell("print(summary.reset_index().to_json(orient='records'))"))
    done = NotebookClient(shown, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    rows = json.loads(done.cells[-1].outputs[0].text)
    found = {(row["place"], row["arms"], row["alignment"]): row["jaccard"] for row in rows}
    first, second = sorted(Path("runs-out").glob("demo-base-seed*"))
    for place, chosen in {
        "V and O of layer 1": ("--layers", 1, "--modules", "v_proj,o_proj"),
        "other layers": ("--layers", 0),
    }.items():
        printed = command("overlap", first, second, "--by", "model", *chosen, "--format", "json", "--quiet")
        assert found[place, "base x base", "raw"] == pytest.approx(printed.json["rows"][0]["jaccard"])
    assert {"raw", "aligned", "wrong element"} == {alignment for _, _, alignment in found}
    assert "image/png" in done.cells[9].outputs[-1].data
