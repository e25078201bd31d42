"""What users type for layers and symmetries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scramble.errors import SelectionError
from scramble.transforms.selection import layers, requests


@given(st.sets(st.integers(0, 29), min_size=1))
def test_layers_written_out_are_read_back(chosen: set[int]) -> None:
    assert layers(",".join(map(str, sorted(chosen))), 30) == tuple(sorted(chosen))


@pytest.mark.parametrize(
    ("text", "found"),
    [("4-8", (4, 5, 6, 7, 8)), ("-1", (29,)), ("-30", (0,)), ("3,1,3", (1, 3)), ("all", tuple(range(30)))],
)
def test_ranges_and_counts_from_the_end(text: str, found: tuple[int, ...]) -> None:
    assert layers(text, 30) == found


@pytest.mark.parametrize("text", ["30", "-31", "8-4", "x", "", "1,,2", "28-30"])
def test_what_is_not_a_layer_is_refused(text: str) -> None:
    with pytest.raises(SelectionError, match="--layers"):
        layers(text, 30)


def test_a_symmetry_may_name_its_own_layers() -> None:
    found = requests(["vo-rotation:shared=true,layers=20,25", "head-permutation"])
    assert found == [("vo-rotation", {"shared": "true"}, "20,25"), ("head-permutation", {}, None)]
