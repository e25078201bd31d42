"""What users type for layers and symmetries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scramble import HeadPermutation, VoRotation
from scramble.errors import SelectionError
from scramble.transforms.selection import layers, requests


@given(st.sets(st.integers(0, 29), min_size=1))
def test_layers_written_out_are_read_back(chosen: set[int]) -> None:
    assert layers(",".join(map(str, sorted(chosen))), 30) == tuple(sorted(chosen))
    assert layers(sorted(chosen), 30) == tuple(sorted(chosen))


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
    assert found == [(VoRotation(shared=True), "20,25"), (HeadPermutation(), None)]


def test_objects_say_what_text_says() -> None:
    asked = [(VoRotation(shared=True), "20,25"), HeadPermutation()]
    assert requests(asked) == requests(["vo-rotation:shared=true,layers=20,25", "head-permutation"])
    assert requests(HeadPermutation()) == requests("head-permutation") == [(HeadPermutation(), None)]


@pytest.mark.parametrize("asked", [[], [1.5], [True]])
def test_what_is_no_number_of_a_layer_is_refused(asked: list[int]) -> None:
    with pytest.raises(SelectionError, match="layers"):
        layers(asked, 30)
