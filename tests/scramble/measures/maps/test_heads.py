"""Head boundaries: agreement with labels that are carried through the layout, for every family."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scramble.architecture.axes import Layout, parse
from scramble.families import architecture
from scramble.measures.maps.heads import head_boundaries
from tests.models import FAMILIES, Tiny

SIZES = {"kv_head": 3, "group": 2, "qk": 4, "v": 5, "rope": 2, "hidden": 7, "neuron": 6}


def labels(layout: Layout, sizes: dict[str, int], dimension: int) -> np.ndarray:
    """(summand with heads, kv_head, group) of every row or column, by writing into the layout's views."""
    found = np.full((*layout.shape(sizes), 3), -1)
    for axis in range(3):
        flat = found[..., axis]
        for number, (names, view) in enumerate(layout.views(flat, sizes)):
            here = [name for name in names if name in ("kv_head", "group")]
            if axis == 0:
                view[...] = number if here else -1
            elif (name := ("kv_head", "group")[axis - 1]) in names:
                at = names.index(name)
                view[...] = np.arange(view.shape[at]).reshape(
                    [-1 if d == at else 1 for d in range(view.ndim)]
                )
    return np.moveaxis(found, dimension, 0)[:, 0] if len(layout.dims) > 1 else found


@pytest.mark.parametrize(
    ("text", "dimension", "light", "heavy"),
    [
        ("(kv_head group qk) hidden", 0, [4, 12, 20], [8, 16]),
        ("(kv_head group qk) hidden", 1, [], []),
        ("(kv_head qk) hidden", 0, [], [4, 8]),
        ("hidden (kv_head group v)", 1, [5, 15, 25], [10, 20]),
        ("(kv_head (group qk + qk + v)) hidden", 0, [4, 8, 12, 21, 25, 29, 38, 42, 46], [17, 34]),
        ("(kv_head group qk + kv_head qk + kv_head v)", 0, [4, 12, 20], [8, 16, 24, 28, 32, 36, 41, 46]),
        ("(kv_head group (qk + rope)) hidden", 0, [6, 18, 30], [12, 24]),
        ("(kv_head (qk + v)) hidden", 0, [], [9, 18]),
        ("(neuron + neuron) hidden", 0, [], []),
        ("(hidden + rope) hidden", 0, [], []),
        ("(kv_head group)", 0, [1, 3, 5], [2, 4]),
    ],
)
def test_boundaries_of_layouts(text: str, dimension: int, light: list[int], heavy: list[int]) -> None:
    found = head_boundaries(parse(text), SIZES, dimension)
    assert [one.at for one in found if not one.heavy] == light
    assert [one.at for one in found if one.heavy] == heavy
    assert [one.at for one in found] == sorted(light + heavy)


@pytest.mark.parametrize("family", FAMILIES)
@given(kv_heads=st.integers(1, 3), group=st.integers(1, 3), switched=st.booleans())
def test_boundaries_are_where_the_head_changes(
    family: str, kv_heads: int, group: int, switched: bool
) -> None:
    tiny = Tiny(family, kv_heads, group, 8, layers=2, switched=switched)
    found = architecture({"model_type": family, **tiny.config}, [])
    for slot in found.slots().values():
        for dimension in range(len(slot.layout.dims)):
            lines = head_boundaries(slot.layout, slot.sizes, dimension)
            label = labels(slot.layout, dict(slot.sizes), dimension)
            if (label[:, 1:] < 0).all():
                assert lines == (), slot.pattern
                continue
            moved = (np.diff(label, axis=0) != 0).any(axis=1)
            if "(qk* + v)" in slot.layout.text or "qk_rope" in slot.layout.text:
                moved = (np.diff(label[:, 1:], axis=0) != 0).any(axis=1)  # parts of one head
            assert [one.at for one in lines] == (1 + np.flatnonzero(moved)).tolist(), slot.pattern
