"""Counts of a run and of its scrambled image are the same, in all families and for every lossless symmetry.

A lossless symmetry moves weights and flips signs: each row of a table whose set of weights it maps to itself
must have the same counts, and the aligned frame must be the base's raw frame exactly.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import scramble
from scramble.checkpoints import open_checkpoint
from scramble.symmetries import SYMMETRIES, act
from scramble.transforms.record import read_record
from tests.docs.support import COLUMNS, TICK, printed
from tests.models import FAMILIES, Tiny, weights

pytestmark = pytest.mark.train

LOSSLESS = {
    "head-permutation": "head-permutation",
    "neuron-permutation": "neuron-permutation",
    "expert-permutation": "expert-permutation",
    "residual-permutation": "residual-permutation",
    "vo-rotation": "vo-rotation:method=signed-permutation",
    "vo-scaling": "vo-scaling",
    "qk-scaling": "qk-scaling",
    "neuron-scaling": "neuron-scaling:k=2",
}
# What a family lacks is refused, and the reference's table says so (tests/docs/test_support.py).
SUPPORT = printed()
# Refused in a configuration that is not the one below: a clamp, ALiBi.
PLAIN = ("vo-rotation", "head-permutation")
PAIRS = [
    (family, symmetry)
    for family in FAMILIES
    for symmetry in LOSSLESS
    if SUPPORT[family][COLUMNS.index(symmetry)] == TICK or symmetry in PLAIN
]
# Columns that are sums of counts, whatever the order of the weights.
COUNTS = ["level", "layer", "module", "tensor", "n", "changed", "non_finite"]
OVERLAPS = ["level", "layer", "module", "tensor", "n", "jaccard", "density_a", "density_b"]


def ends(base: Path, folder: Path) -> list[Path]:
    """Two float32 ends, in each of which about a half of the weights have other bits in bf16."""
    found = []
    for seed in (0, 1):
        rng = np.random.default_rng(seed)
        tensors = {
            name: (value.double() * (1 + 4e-3 * torch.from_numpy(rng.standard_normal(value.shape)))).float()
            for name, value in weights(base).items()
        }
        found.append(saved(folder / f"end-{seed}", tensors, base))
    return found


def saved(folder: Path, tensors: dict[str, torch.Tensor], base: Path) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_bytes((base / "config.json").read_bytes())
    return folder


def image(start: Path, end: Path, folder: Path) -> Path:
    """The end in the scrambled start's frame: every weight where the symmetry takes it, with its sign."""
    checkpoint = open_checkpoint(start)
    touched, slots = read_record(start).transform(checkpoint).actions, checkpoint.architecture.slots()
    tensors, old = {}, weights(end)
    for name in weights(start):
        action = touched.get(name)
        value = old[action.source if action else name]
        if action:
            value = torch.from_numpy(
                act(value.double().numpy(), action.layout, slots[name].sizes, action.elements)
            ).float()
        tensors[name] = value.contiguous()
    return saved(folder, tensors, end)


@pytest.mark.parametrize(("family", "symmetry"), PAIRS)
def test_counts_follow_a_lossless_symmetry(family: str, symmetry: str, tmp_path: Path) -> None:
    tiny = Tiny(family, 2, 2, 8, layers=2, seed=5)
    base, start = tiny.save(tmp_path / "base", torch.bfloat16), tmp_path / "start"
    layers = "0,1" if symmetry != "expert-permutation" else ",".join(map(str, sorted(tiny.sparse)))
    chosen = None if SYMMETRIES[symmetry].whole else layers
    scramble.apply(base, start, layers=chosen, symmetries=(LOSSLESS[symmetry],), check=False)
    own = ends(base, tmp_path)
    images = [image(start, end, tmp_path / f"image-{at}") for at, end in enumerate(own)]
    # Experts of some families are tensors of their own, which trade places.
    levels = ["model", "module", "layer", *(["tensor"] if symmetry != "expert-permutation" else [])]
    raw, moved = (
        scramble.diff((at, end), by=levels, progress=False)
        for at, end in ((base, own[0]), (start, images[0]))
    )
    pd.testing.assert_frame_equal(raw[COUNTS], moved[COUNTS])
    there = scramble.overlap([(base, own[0]), (base, own[1])], by=levels, frame="raw", progress=False)
    here = scramble.overlap([(start, images[0]), (start, images[1])], by=levels, frame="both", progress=False)
    for frame in ("raw", "aligned"):
        rows = here[here["frame"] == frame].reset_index(drop=True)
        pd.testing.assert_frame_equal(rows[OVERLAPS], there[OVERLAPS], check_exact=True)
    crossed = scramble.overlap(
        [(base, own[0]), (start, images[0])], by=["tensor"], frame="aligned", progress=False
    )
    changed = crossed[crossed["density_a"] > 0]
    assert len(changed)
    assert (changed["jaccard"] == 1).all()


def test_every_symmetry_that_can_be_lossless_is_here() -> None:
    """The others rotate, and no method of theirs only moves weights and flips signs."""
    assert set(SYMMETRIES) - set(LOSSLESS) == {"qk-rotation", "residual-rotation"}
