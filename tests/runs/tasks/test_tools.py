"""The calculator and the search that a model may call."""

from __future__ import annotations

import ast
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scramble.errors import RecipeError
from scramble.runs.tasks import Tools
from scramble.runs.tasks.calculator import calculate
from scramble.runs.tasks.data.documents import Documents

numbers = st.integers(0, 99).map(str)
expressions = st.recursive(
    numbers,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "//", "%"]), inner).map(" ".join),
        inner.map(lambda text: f"({text})"),
        inner.map(lambda text: f"-{text}"),
    ),
    max_leaves=8,
)


@given(expressions)
def test_the_calculator_agrees_with_python(text: str) -> None:
    try:
        right = eval(text)
    except ZeroDivisionError:
        with pytest.raises(ValueError, match="zero"):
            calculate(text)
        return
    assert calculate(text) == right


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "(1).__class__",
        "[1][0]",
        "'a' * 3",
        "True + 1",
        "1j",
        "(-8) ** 0.5",
        "a",
        "1 if 1 else 2",
        "lambda: 1",
        "1; 2",
        "",
        "1 +",
        "2 ** 10000",
        "9 ** 9 ** 9",
        "10.0 ** 1000",
        "1 << 99999",
        "1 / 0",
        "(" * 99 + "1" + ")" * 99 + " " * 10,
        "1" * 201,
    ],
)
def test_the_calculator_refuses_the_rest_at_once(text: str) -> None:
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"."):
        calculate(text)
    assert time.monotonic() - began < 1


@given(st.text(max_size=40))
def test_the_calculator_raises_nothing_else(text: str) -> None:
    with suppress(ValueError):
        assert isinstance(calculate(text), int | float)


def test_the_largest_numbers_are_bounded() -> None:
    assert calculate("2 ** 4000") == 2**4000
    with pytest.raises(ValueError, match="4096 bits"):
        calculate("2 ** 4000 * 2 ** 4000")
    assert ast.literal_eval(str(calculate("0.5 * 4"))) == 2.0


def test_search_ranks_rare_and_frequent_words_first() -> None:
    found = Documents(["the cat sat", "the dog sat and the dog ran", "a dog", "the end"])
    assert found.search("Dog!", 2) == ["a dog", "the dog sat and the dog ran"]
    assert found.search("the cat")[0] == "the cat sat"
    assert found.search("horse") == []
    assert Documents([]).search("a") == []


def test_a_repeated_word_counts_more_and_a_longer_text_less() -> None:
    found = Documents(["dog x y", "dog dog y", "a b c"])
    assert found.search("dog")[0] == "dog dog y"
    assert Documents(["dog x y z w v", "dog", "a b c"]).search("dog")[0] == "dog"


def test_the_tools_of_a_task(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "How old is Ann?", "answer": "7"}\n')
    (tmp_path / "texts.jsonl").write_text('{"text": "Ann is seven."}\n{"text": "Bob is six."}\n')
    task = Tools(name="tools", data=str(tmp_path / "rows.jsonl"), documents=str(tmp_path / "texts.jsonl"))
    calculator, search = task.tools
    assert calculator("3 + 4") == "7"
    assert search("Ann") == "Ann is seven."
    assert search("Eve") == "nothing found"
    (example,) = task.checked_examples()
    assert task.row(example)["prompt"] == [{"role": "user", "content": "How old is Ann?"}]
    assert task.scores(["She is seven.\nAnswer: 7", "7", "Answer: 8"], ["7"] * 3) == [1.0, 1.0, 0.0]
    assert [one.__name__ for one in task.model_copy(update={"documents": None}).tools] == ["calculator"]
    (tmp_path / "other.jsonl").write_text('{"txt": "Ann is seven."}\n')
    with pytest.raises(RecipeError, match="no column 'text'; it has txt"):
        task.model_copy(update={"documents": str(tmp_path / "other.jsonl")}).checked_examples()
