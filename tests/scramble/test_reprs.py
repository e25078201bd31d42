"""What objects look like in a terminal and in a notebook: one line, and a table with escaped text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import scramble
from tests.fake_runs import train


def shown(about: Any) -> pd.DataFrame:
    """The table of an object's HTML, as text."""
    rows = [re.findall(r"<t[dh]>(.*?)</t[dh]>", row) for row in about._repr_html_().split("<tr")[1:]]
    return pd.DataFrame(rows[1:], columns=re.findall(r"<th>(.*?)</th>", about._repr_html_()))


@pytest.fixture(scope="module")
def scrambled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from tests.models import Tiny

    folder = tmp_path_factory.mktemp("reprs")
    base = Tiny("qwen2", 2, 2, 8, layers=3, seed=3).save(folder / "base", torch.bfloat16)
    scramble.apply(base, folder / "out", layers=[0, 1], seed=5)
    return folder / "out"


def test_a_manifest_says_what_was_done_and_the_verdict(scrambled: Path) -> None:
    manifest = scramble.Manifest.read(scrambled)
    said = "<Manifest of a qwen2: head-permutation in layers 0-1; vo-rotation in layers 0-1; equivalent>"
    assert repr(manifest) == str(manifest) == said
    table = shown(manifest)
    assert list(table["symmetry"]) == [step.symmetry for step in manifest.steps]
    assert list(table["layer"]) == [str(step.layer) for step in manifest.steps]


def test_a_verdict_shows_every_check_beside_its_bound(scrambled: Path) -> None:
    found = scramble.Manifest.read(scrambled).scrambles[-1].equivalence
    assert found is not None
    assert repr(found).startswith("<Equivalence: equivalent; algebra ")
    assert "weights_off 0 (bound 0)" in repr(found)
    table = shown(found)
    assert list(table["check"]) == ["algebra", "weights_off", "storage"]
    assert table["value"].astype(float).tolist() == pytest.approx(
        [one["value"] for one in found.checks()], rel=1e-5
    )


def test_a_transform_shows_its_elements(scrambled: Path) -> None:
    found = scramble.compose(scrambled)
    assert repr(found) == "<Transform of a qwen2: 6 elements in layers 0, 1>"
    table = shown(found)
    assert len(table) == 6
    assert set(table["element"]) == {"rotation", "permutation"}


def test_a_checkpoint_pair_is_written_as_it_is_given(scrambled: Path) -> None:
    base = scrambled.parent / "base"
    assert repr(scramble.open_run((base, scrambled))) == f"<CheckpointPair {base}:{scrambled}>"


def test_a_folder_is_given_as_text_or_path_and_its_name_is_escaped(scrambled: Path, tmp_path: Path) -> None:
    folder = tmp_path / "<b>run"
    folder.mkdir()
    found = scramble.RunFolder(str(folder))
    assert found == scramble.RunFolder(folder)
    assert found._repr_html_() == (
        f"<p><code>RunFolder(&#x27;{tmp_path}/&lt;b&gt;run&#x27;, missing)</code></p>"
    )
    with pytest.raises(scramble.ScrambleError):
        scramble.diff(found.path)
    train(scrambled.parent / "base", folder / "end", 1)
    assert "n" in scramble.diff((scrambled.parent / "base", folder / "end"), progress=False)
