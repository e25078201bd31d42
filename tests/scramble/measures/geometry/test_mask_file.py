"""Masks in a file: what is read is what was written, in the format that the module states."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open

from scramble.errors import CheckpointError, TargetError
from scramble.measures.geometry.mask_file import MaskFile, read_masks

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)


@given(st.dictionaries(st.sampled_from("abc"), hnp.arrays(bool, SHAPES), min_size=1))
def test_masks_come_back(tmp_path: Path, masks: dict[str, np.ndarray]) -> None:
    file, path = MaskFile(), tmp_path / "m.safetensors"
    for name, mask in masks.items():
        file.add(name, mask)
    file.write(path, {"mask": "safe"}, force=True)
    found = read_masks(path)
    assert list(found) == list(masks)
    assert all(
        np.array_equal(found[name], mask) and found[name].dtype == bool for name, mask in masks.items()
    )
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_the_format_is_one_bit_a_weight_in_row_major_order(tmp_path: Path) -> None:
    file, path = MaskFile(), tmp_path / "m.safetensors"
    file.add("w", np.array([[True, False, False], [True, True, False], [False, False, True]]))
    file.write(path, {"mask": "safe", "rank": 64, "alpha": 0.5})
    with safe_open(path, "numpy") as opened:
        assert opened.get_tensor("w").tolist() == [0b10011000, 0b10000000]
        metadata = opened.metadata()
    assert json.loads(metadata["shapes"]) == {"w": [3, 3]}
    assert (metadata["mask"], metadata["rank"], metadata["alpha"]) == ("safe", "64", "0.5")


def test_an_existing_file_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_text("mine")
    with pytest.raises(TargetError, match="--force"):
        MaskFile().write(path, {})
    assert path.read_text() == "mine"
    with pytest.raises(TargetError, match="does not exist"):
        MaskFile().write(tmp_path / "no" / "m.safetensors", {})


@pytest.mark.parametrize("content", [None, b"", b"not a file of masks"])
def test_what_is_no_file_of_masks_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "m.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not a file of masks"):
        read_masks(path)


def test_a_checkpoint_is_no_file_of_masks(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="not a file of masks"):
        read_masks(checkpoint / "model.safetensors")
