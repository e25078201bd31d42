"""Where the final answer stands in a text: marks, boxes, headings that are none of both."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scramble.errors import RecipeError
from scramble.runs.tasks.data.forms import FORMS, bare, final_answer, form_of, marked, words

NUMBERS = st.integers(-999, 999).map(str)
HEADINGS = st.sampled_from(
    ["#### Step 1", "#### Solution", "#### Final Answer", "### 7", "####", "##### 9", "#### "]
)
PROSE = st.text(st.sampled_from("ab 12=.\n"), max_size=20)


@given(st.recursive(st.sampled_from("ab 1"), lambda inner: inner.map(lambda text: f"x{{{text}}}\\}}y")))
def test_a_box_ends_where_its_brackets_do(inside: str) -> None:
    assert final_answer(f"\\boxed{{0}}, so \\boxed{{{inside}}} {{}} }}", "boxed") == (inside.strip() or None)


def test_boxes_are_written_in_three_ways() -> None:
    for text in (r"$\boxed{2}$.", r"$\fbox{2}$.", r"$\boxed 2$.", r"\boxed {2}"):
        assert final_answer(text, "boxed") == "2"
    for text in (r"\boxed{1 + {2", r"\boxed{}", r"\boxed", "2"):
        assert final_answer(text, "boxed") is None


@given(st.lists(st.one_of(HEADINGS, PROSE, NUMBERS), max_size=5).map("\n".join), NUMBERS, st.data())
def test_the_mark_is_the_last_line(before: str, number: str, data: st.DataObject) -> None:
    """However it is emphasised; and what stands before it does not matter."""
    written = data.draw(
        st.sampled_from(["{}", "**{}**", "`{}`", "${}$", "**${}$**", "\\boxed{{{}}}", "{} apples"])
    )
    end = data.draw(st.sampled_from(["", "\n", "\n\n  ", "\r\n"]))
    text = f"{before}\n#### {written.format(number)}{end}"
    assert marked(text) == final_answer(text, "gsm8k") == number
    assert form_of([(text, "row 1")]) == "gsm8k"


@given(st.lists(st.one_of(PROSE, NUMBERS), max_size=5).map("\n".join), HEADINGS)
def test_a_heading_is_no_mark(before: str, heading: str) -> None:
    assert marked(f"{before}\n{heading}") is None
    assert marked(f"{before}\n{heading}\nSo it is 42") is None
    assert marked(f"#### 42\n{before or 'x'}\n{heading}") is None


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("Solution", ["Solution"]),
        ("east", ["east"]),
        (r"\text{east}", []),
        (r"\textbf{(B)} \text{ or more}", []),
        ("42 dollars", ["dollars"]),
        (r"42 \text{ dollars}", []),
        ("xy + 2ab", []),
        (r"\sin x \cdot \sqrt{2}", []),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", []),
        (r"\mathrm{even}", []),
        ("Straße", ["Straße"]),
        ("nan", ["nan"]),
    ],
)
def test_words_are_no_mathematics(answer: str, found: list[str]) -> None:
    assert words(answer) == found


@given(
    st.text(st.sampled_from("1x+ "), min_size=1).filter(str.strip), st.lists(st.integers(0, 5), max_size=3)
)
def test_delimiters_come_off_and_nothing_else(inside: str, order: list[int]) -> None:
    pairs = [("$", "$"), ("$$", "$$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("`", "`")]
    text = inside.strip()
    assert bare(inside) == text
    for begin, end in (pairs[one] for one in order[:1]):
        assert bare(f" {begin}{text}{end}") == text
    for whole in ("$1$ or $2$", r"\$42", "(1, 2)", "2*3*4"):
        assert bare(whole) == whole


def test_a_data_set_has_one_form() -> None:
    texts = {"plain": "42", "boxed": r"so \boxed{42}", "gsm8k": "so\n#### 42"}
    assert set(texts) == set(FORMS)
    for form, text in texts.items():
        assert form_of([(text, "row 1"), (text, "row 2")]) == form
        for other, second in texts.items():
            if other != form:
                with pytest.raises(
                    RecipeError, match=f"row 2: .* form '{other}' .* row 1 of the form '{form}'"
                ):
                    form_of([(text, "row 1"), (second, "row 2")])
