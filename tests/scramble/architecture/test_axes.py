"""Laws of layouts: views cover a tensor exactly once, and agree with einops where einops can say it."""

import numpy as np
import pytest
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st

from scramble.architecture.axes import parse

SIZES = {"a": 2, "b": 3, "c": 4, "d": 5}


@st.composite
def layouts(draw: st.DrawFn) -> str:
    names = iter(draw(st.permutations(list(SIZES))))

    def product(depth: int) -> str:
        parts = []
        for _ in range(draw(st.integers(1, 2))):
            name = next(names, None)
            if name is None:
                break
            parts.append(f"({product(depth - 1)} + {name})" if depth and draw(st.booleans()) else name)
        return " ".join(parts) or "a"

    return " ".join(f"({product(2)})" for _ in range(draw(st.integers(1, 2))))


@given(layouts())
def test_views_cover_every_element_once(text: str) -> None:
    layout = parse(text)
    array = np.zeros(layout.shape(SIZES))
    for names, view in layout.views(array, SIZES):
        assert view.shape == tuple(SIZES[name] for name in names)
        view += 1
    assert (array == 1).all()


@pytest.mark.parametrize("text", ["(a b c) d", "d (a b)", "(b a)", "a (b c) d"])
def test_a_product_is_what_einops_says(text: str) -> None:
    layout = parse(text)
    array = np.arange(np.prod(layout.shape(SIZES))).reshape(layout.shape(SIZES))
    ((names, view),) = layout.views(array, SIZES)
    np.testing.assert_array_equal(
        view, rearrange(array, f"{text} -> {' '.join(names)}", **{n: SIZES[n] for n in names})
    )


def test_a_direct_sum_is_head_after_head() -> None:
    layout = parse("(a (b + c))")
    array = np.arange(2 * 7)
    views = dict(layout.views(array, SIZES))
    np.testing.assert_array_equal(views["a", "b"], [[0, 1, 2], [7, 8, 9]])
    np.testing.assert_array_equal(views["a", "c"], [[3, 4, 5, 6], [10, 11, 12, 13]])


@pytest.mark.parametrize("text", ["(a", "a)", "a + b", "()", "(a +)", "a * b", "|a", "a|b|"])
def test_what_is_not_a_layout_is_refused_with_the_text(text: str) -> None:
    with pytest.raises(ValueError, match="layout '"):
        parse(text)


def test_a_wrong_shape_is_refused_with_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"'a b' is \(2, 3\), but the array is \(3, 2\)"):
        list(parse("a b").views(np.zeros((3, 2)), SIZES))
