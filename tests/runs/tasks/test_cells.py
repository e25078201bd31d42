"""Values of rows: every reader keeps their types, and what no task can use is refused by its place."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from scramble.errors import RecipeError
from scramble.runs.tasks import Code, Example, Jsonl, Math, PreferencePairs, Tools
from scramble.runs.tasks.data.answers import in_words, read, same, write
from scramble.runs.tasks.data.cells import Cell
from scramble.runs.tasks.data.example import Turn
from scramble.runs.tasks.data.rows import read_rows
from scramble.runs.tasks.tools import _search

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}]
TURNS = (Turn("system", "Be brief."), Turn("user", "1+1?"))
TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
FULL = TEXTS.filter(str.strip)
INTS = st.integers(-(2**60), 2**60)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.one_of(TEXTS, INTS, FLOATS, st.booleans(), st.none(), st.just(float("nan")))
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "x"]), inner)
    ),
    max_leaves=5,
)
MESSAGE = st.fixed_dictionaries({"role": st.sampled_from(["system", "user"]), "content": FULL})
NUMBERS = st.one_of(
    INTS, st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9)
)


@settings(max_examples=400)
@given(VALUES | st.lists(MESSAGE, max_size=3) | st.lists(FULL | INTS | FLOATS, max_size=3))
def test_a_value_is_read_as_its_type_or_refused(value: Any) -> None:
    """Never as the text that Python prints for it."""
    cell = Cell(value, "task: f: row 7: column 'c'")
    for get in (cell.text, cell.lines, cell.answers, cell.prompt, lambda: cell.completion(TURNS)):
        found = _found(get)
        if isinstance(found, RecipeError):
            assert re.match("task: f: row 7: column 'c'[^\n]*$", str(found))
        elif isinstance(found, list):
            assert [_plain(one) for one in found] == _values(value)
        elif isinstance(found, tuple):
            assert [turn._asdict() for turn in found] == [_without_nulls(message) for message in value]
        elif get in (cell.text, cell.lines, cell.prompt):
            assert found.split("\n") == [line for text in _values(value) for line in text.split("\n")]
        else:
            assert [found] == [one["content"] if isinstance(one, dict) else one for one in _values(value)]


def _found(get: Callable[[], Any]) -> Any:
    try:
        return get()
    except RecipeError as refused:
        return refused


def _values(value: Any) -> list[Any]:
    """A list, or the one value; numbers apart from truth values, which equal them."""
    if isinstance(value, dict) and "ground_truth" in value:
        return _values(value["ground_truth"])
    values = value if isinstance(value, list) else [value]
    return [f"no answer: {one}" if isinstance(one, bool) else one for one in values]


def _plain(answer: Any) -> Any:
    return float(answer) if isinstance(answer, Decimal) else answer


def _without_nulls(message: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in message.items() if value is not None}


@given(st.lists(FULL | NUMBERS, min_size=1, max_size=4))
def test_answers_are_written_down_and_read_again(answers: list[Any]) -> None:
    written = write(answers)
    assert read(written) == answers
    assert [isinstance(one, str) for one in read(written)] == [isinstance(one, str) for one in answers]


@given(FULL)
def test_one_text_is_written_as_itself(text: str) -> None:
    assert (write([text]) == text) is not text.startswith("\x1e")


@given(NUMBERS | FLOATS.map(lambda one: Decimal(repr(one))), st.integers(0, 3))
def test_a_number_is_itself_however_it_is_written(number: Any, zeros: int) -> None:
    words = in_words(number)
    assert "e" not in words.lower()
    assert same(words, number)
    assert same(f"{Decimal(number):e}", number)
    assert same(f" {words}{'' if '.' in words else '.'}{'0' * zeros}\n", number)
    assert not same(f"{words}1" if "." in words else f"{words}.1", number)
    assert not same(f"{words}x", number)
    assert not same("", number)


def test_numbers_are_compared_as_numbers_and_texts_letter_by_letter() -> None:
    for said in ("18", "18.0", "1.8e1", "+18", "18."):
        assert same(said, Decimal("18.0"))
        assert same(said, "18") is (said == "18")
    assert same("1,234", 1234)
    for said in ("12,34", "0x12", "1_8", "18 19", "inf", "nan", "1/2", "--18"):
        assert not any(same(said, number) for number in (18, 1234, Decimal("0.5")))
    assert same("0.0000001", Decimal("1e-7"))
    assert same("1e-7", Decimal(repr(1e-07)))
    assert not same("0", Decimal("1e-7"))


ROW = st.fixed_dictionaries({"prompt": FULL, "answer": st.none() | FULL | INTS})


def as_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path = path.with_suffix(".jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def as_array(path: Path, rows: list[dict[str, Any]]) -> Path:
    path = path.with_suffix(".json")
    path.write_text(json.dumps(rows, indent=1))
    return path


def as_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    path = path.with_suffix(".parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def as_saved(path: Path, rows: list[dict[str, Any]]) -> Path:
    from datasets import Dataset

    Dataset.from_list(rows).with_format("numpy").save_to_disk(path)
    return path


READERS: dict[str, Callable[[Path, list[dict[str, Any]]], Path]] = {
    "lines": as_lines,
    "array": as_array,
    "Parquet": as_parquet,
    "datasets": as_saved,
}
# What an Arrow column can hold; nulls anywhere.
COLUMNS = st.sampled_from(
    [
        TEXTS,
        INTS,
        FLOATS,
        st.booleans(),
        st.lists(FULL, max_size=3),
        st.lists(MESSAGE, min_size=1, max_size=3),
    ]
).flatmap(lambda kind: st.lists(st.none() | kind, min_size=1, max_size=4))


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@given(values=COLUMNS)
def test_every_reader_keeps_types(
    tmp_path_factory: pytest.TempPathFactory,
    reader: Callable[[Path, list[dict[str, Any]]], Path],
    values: list[Any],
) -> None:
    """Nulls are nulls, integers beside them integers, lists lists."""
    rows = [{"prompt": f"p{at}", "value": value} for at, value in enumerate(values)]
    path = reader(tmp_path_factory.mktemp("data") / "rows", rows)
    found = [row["value"] for row in read_rows(str(path), ("prompt",))]
    assert found == values
    assert [type(one) for one in found] == [type(one) for one in values]


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_an_empty_answer_is_refused_with_its_row(
    reader: Callable[[Path, list[dict[str, Any]]], Path], tmp_path: Path
) -> None:
    for at, value in enumerate((None, "", " ", [])):
        good: Any = ["a"] if value == [] else "a" if isinstance(value, str) else 7
        rows = [{"prompt": "p", "answer": good}, {"prompt": "q", "answer": value}]
        path = reader(tmp_path / f"rows{at}", rows)
        with pytest.raises(RecipeError, match="row 2: column 'answer' is empty"):
            Jsonl(name="jsonl", data=str(path)).examples()


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (Decimal("1.50"), None),
        (datetime(2026, 1, 2, tzinfo=UTC), "neither text nor number but a datetime"),
        (b"bytes", "neither text nor number but a bytes"),
        ({"x": 1}, "neither text nor number but a dict"),
        (True, "neither text nor number but a bool"),
        (float("nan"), "a number that is not finite: nan"),
        ([["a"]], "item 1 holds neither text nor number but a list"),
        (["a", None], "item 2 holds neither text nor number but nothing"),
    ],
)
def test_parquets_other_types_are_read_or_refused(value: Any, kind: str | None, tmp_path: Path) -> None:
    path = as_parquet(tmp_path / "rows", [{"prompt": "p", "answer": value}])
    task = Jsonl(name="jsonl", data=str(path))
    if kind is None:
        (example,) = task.checked_examples()
        assert example.text == "1.5"
        assert task.correct("1.500", example.answer)
        return
    with pytest.raises(RecipeError, match=f"row 1: column 'answer'.*{kind}"):
        task.examples()


def test_a_class_is_its_name(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    kinds = Features({"prompt": Value("string"), "answer": ClassLabel(names=["no", "yes"])})
    Dataset.from_dict({"prompt": ["p", "q"], "answer": [1, 0]}, kinds).save_to_disk(tmp_path / "saved")
    examples = Jsonl(name="jsonl", data=str(tmp_path / "saved")).examples()
    assert [one.answer for one in examples] == ["yes", "no"]


def test_any_of_several_answers_is_right(tmp_path: Path) -> None:
    path = as_lines(tmp_path / "rows", [{"prompt": "p", "answer": ["204", 18.0, "x"]}])
    exact = Jsonl(name="jsonl", data=str(path))
    (example,) = exact.checked_examples()
    assert example.text == "204"
    said = ["204", "18", "x", "['204']", "204.0", "1", "['204', 18.0, 'x']"]
    assert exact.scores(said, [example.answer] * 7) == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    path = as_lines(tmp_path / "rows", [{"prompt": "p", "answer": ["204", 1e-7, r"\frac{1}{2}"]}])
    mathematics = Math(name="math", data=str(path), seconds=2)
    (example,) = mathematics.checked_examples()
    boxed = [f"\\boxed{{{one}}}" for one in ("204.0", "10^{-7}", "0.5", "2", "0")]
    assert mathematics.scores(boxed, [example.answer] * 5) == [1.0, 1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "record",
    [
        {"data_source": "x", "prompt": CHAT, "reward_model": {"style": "rule", "ground_truth": "2"}},
        {
            "prompt": CHAT,
            "reward_model": {"style": "rule-lighteval/MATH_v2", "ground_truth": "2"},
            "solution": "no",
        },
        {"prompt": CHAT, "solution": "2", "extra": None},
        {"prompt": CHAT, "answer": "2", "solution": "no"},
    ],
)
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_records_of_verl_and_trl_are_known(
    record: dict[str, Any], reader: Callable[[Path, list[dict[str, Any]]], Path], tmp_path: Path
) -> None:
    path = reader(tmp_path / "rows", [record, record])
    first, second = Jsonl(name="jsonl", data=str(path)).examples()
    assert first == second == Example(TURNS, "2", "2")
    (first, _) = Math(name="math", data=str(path)).examples()
    assert first.prompt == (TURNS[0], Turn("user", "1+1?\nPut the final answer into \\boxed{}.\n"))


BAD_PROMPTS: dict[str, tuple[Any, str]] = {
    "a number": (7, "holds no text but a int"),
    "a dict": ({"role": "user", "content": "a"}, "holds no text but a dict"),
    "texts": (["a"], "item 1 holds no message but a str"),
    "no role": ([{"content": "a"}], "item 1: the role None is none of system, developer, user"),
    "parts": ([{"role": "user", "content": [{"type": "text"}]}], "item 1: content holds no text but a list"),
    "more": ([{"role": "user", "content": "a", "name": "Ann"}], "this one has 'name' too"),
    "answered": ([*CHAT, {"role": "assistant", "content": "2"}], "the last message is the assistant's"),
    "no messages": ([], "is empty"),
    "mixed": ("a text", r"column 'prompt' holds texts \(row 2\) and messages \(row 1\)"),
}


@pytest.mark.parametrize(("prompt", "message"), BAD_PROMPTS.values(), ids=BAD_PROMPTS)
def test_bad_prompts_are_one_line(prompt: Any, message: str, tmp_path: Path) -> None:
    path = as_lines(tmp_path / "rows", [{"prompt": CHAT, "answer": "2"}, {"prompt": prompt, "answer": "2"}])
    for task in (Jsonl(name="jsonl", data=str(path)), Math(name="math", data=str(path))):
        with pytest.raises(RecipeError, match=message) as error:
            task.examples()
        assert str(path) in str(error.value)


def test_other_columns_are_texts(tmp_path: Path) -> None:
    """Tests and entry points of programs, documents, pairs."""
    path = as_lines(tmp_path / "rows", [{"prompt": CHAT, "tests": "assert 1", "name": 7, "text": {"a": 1}}])
    with pytest.raises(RecipeError, match="column 'prompt' holds a chat, which no program begins"):
        Code(name="code", data=str(path), continues_prompt=True).examples()
    with pytest.raises(RecipeError, match="row 1: column 'name' holds no text but a int"):
        Code(name="code", data=str(path), entry_point="name").examples()
    with pytest.raises(RecipeError, match="row 1: column 'tests' holds no text but a dict"):
        Code(name="code", data=str(as_lines(path, [{"prompt": "a", "tests": {"inputs": []}}]))).examples()
    path = as_lines(tmp_path / "documents", [{"text": "a"}, {"text": ["b"]}])
    with pytest.raises(RecipeError, match="row 2: column 'text' holds no text but a list"):
        _search(str(path))
    pair = {"prompt": CHAT, "chosen": [{"role": "assistant", "content": "2"}], "rejected": "3"}
    (found,) = PreferencePairs(name="preference", data=str(as_lines(path, [pair]))).preferences()
    assert (found.prompt, found.chosen, found.rejected) == (TURNS, "2", "3")
    pair["rejected"] = [*CHAT, {"role": "assistant", "content": "3"}]
    with pytest.raises(RecipeError, match="column 'rejected': one message of the assistant is needed after"):
        PreferencePairs(name="preference", data=str(as_lines(path, [pair]))).preferences()


def test_tools_take_chats_as_they_are() -> None:
    tools = Tools(name="tools", data="none")
    assert tools.row(Example(TURNS, "2")) == {"prompt": CHAT, "answer": "2"}
    assert tools.row(Example("1+1?", "2"))["prompt"] == CHAT[1:]
