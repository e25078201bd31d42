"""Mathematics: what the answer is, when two are equal, and expressions that would never end."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scramble.errors import RecipeError
from scramble.runs.tasks import Math
from scramble.runs.tasks import math as module

GSM8K = [
    {"prompt": "How many?", "answer": "Half of 84 is 84/2=<<84/2=42>>42.\n#### 42"},
    {"prompt": "And now?", "answer": "#### Solution\nIt is 1,234.\n\n#### **1,234**\n"},
]
MATH = [
    {"prompt": "What?", "answer": r"It is $\boxed{\frac{1}{\sqrt{2}}}$, as \boxed{\frac{1}{2}} is not."},
    {"prompt": "Where?", "answer": "#### Step 1\nGo.\n#### Step 2\n$\\boxed{\\text{east}}$"},
]
PLAIN = [{"prompt": "Which?", "answer": "1,234"}, {"prompt": "Which?", "answer": r"$\frac{1}{2}$"}]


def math_task(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> Math:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Math(name="math", data=str(folder / "rows.jsonl"), **({"seconds": 1} | settings))


@pytest.fixture
def task(tmp_path: Path) -> Math:
    return math_task(tmp_path, GSM8K)


def test_answers_are_found_in_solutions(tmp_path: Path) -> None:
    for rows, form, answers in (
        (GSM8K, "gsm8k", ["42", "1,234"]),
        (MATH, "boxed", [r"\frac{1}{2}", r"\text{east}"]),
        (PLAIN, "plain", ["1,234", r"\frac{1}{2}"]),
    ):
        task = math_task(tmp_path, rows)
        assert [example.answer for example in task.checked_examples()] == answers
        assert task.facts() == {"form": form}
    assert task.examples()[0].prompt == "Which?\nPut the final answer into \\boxed{}.\n"


def test_the_form_is_the_data_sets(tmp_path: Path) -> None:
    """One for all rows, and where the recipe says it, all rows have it."""
    with pytest.raises(RecipeError, match=r"row 3: .* form 'boxed' .* row 1 of the form 'gsm8k'"):
        math_task(tmp_path, GSM8K + MATH).examples()
    both = [{"prompt": "How many?", "answer": "It is \\boxed{42}.\n#### 42"}, MATH[1]]
    assert [one.answer for one in math_task(tmp_path, both, form="boxed").examples()] == [
        "42",
        r"\text{east}",
    ]
    with pytest.raises(
        RecipeError, match="row 2: no answer in column 'answer': the form is 'gsm8k', the last"
    ):
        math_task(tmp_path, both, form="gsm8k").examples()
    (tmp_path / "more.jsonl").write_text(json.dumps({"prompt": "p", "answer": "7"}) + "\n")
    with pytest.raises(RecipeError, match=r"more\.jsonl: row 1: no answer"):
        math_task(tmp_path, GSM8K, held_out_data=str(tmp_path / "more.jsonl")).held_out(1)


def test_a_form_that_is_not_said_identifies_no_run(tmp_path: Path) -> None:
    assert "form" not in math_task(tmp_path, GSM8K).decides()
    assert math_task(tmp_path, GSM8K, form="gsm8k").decides()["form"] == "gsm8k"


@pytest.mark.parametrize("rows", [GSM8K, PLAIN], ids=["gsm8k", "plain"])
@pytest.mark.parametrize(
    "completion",
    [
        "#### Step 1\n84 / 2\n#### Step 2\nso \\boxed{42}",
        "#### Final Answer\n42",
        "#### Final Answer\n\n**42**",
        "#### Final Answer\n\\boxed{42}",
        "#### Final Answer: 42",
        "Half of 84 is\n#### **42**",
        "Half of 84 is\n#### $42$\n",
        "#### 7 steps\n\nThe answer is 42.",
    ],
)
def test_headings_take_nothing_from_a_right_answer(
    rows: list[dict[str, Any]], completion: str, tmp_path: Path
) -> None:
    task = math_task(tmp_path, rows)
    assert task.scores([completion, completion], ["42", "41"]) == [1.0, 0.0]


def test_the_mark_counts_in_its_own_form_alone(tmp_path: Path) -> None:
    completion = "\\boxed{41}\n#### 42"
    assert math_task(tmp_path, GSM8K).scores([completion] * 2, ["41", "42"]) == [0.0, 1.0]
    assert math_task(tmp_path, PLAIN).scores([completion] * 2, ["41", "42"]) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("#### Solution\nIt is seven.\n#### Solution", "no mathematics: if 'Solution' belongs to it, write"),
        ("Some text\n#### Solution", "no mathematics: if 'Some'"),
        ("\\boxed{east}", r"the answer 'east' is no mathematics: .* write .text{east}"),
        ("\\boxed{42 dollars}", "no mathematics: if 'dollars'"),
        ("no end \\boxed{1", "no answer in column 'answer': the form is 'boxed'"),
        ("}", "math-verify cannot read the answer '}'"),
        ("\\boxed{\\frac{1}{}", "no answer in column 'answer'"),
        ("?", "math-verify cannot read the answer"),
    ],
)
def test_an_answer_that_is_no_mathematics_is_one_line_with_its_row(
    answer: str, message: str, tmp_path: Path
) -> None:
    """Any row: the look at the check takes some of them only."""
    rows = [{"prompt": str(at), "answer": answer} for at in range(300)]
    good = {"plain": "7", "boxed": "\\boxed{7}"}["boxed" if "boxed" in answer else "plain"]
    rows = [row | {"answer": good} if at != 250 else row for at, row in enumerate(rows)]
    with pytest.raises(RecipeError, match=rf"row 251: .*{message}"):
        math_task(tmp_path, rows).examples()


def test_small_numbers_are_told_apart(task: Math) -> None:
    """math-verify rounds floats to six decimals, and takes the letter in 1e-7 for Euler's number."""
    for answer in ("1e-7", "0.0000001", r"10^{-7}"):
        right = ["\\boxed{1e-7}", "It is 1E-07.", "\\boxed{0.0000001}", "$10^{-7}$", "\\boxed{0.10e-6}"]
        wrong = ["\\boxed{2e-7}", "\\boxed{0}", "\\boxed{0.0000002}", "\\boxed{1e-8}", "\\boxed{e-7}"]
        assert task.scores(right + wrong, [answer] * 10) == [1.0] * 5 + [0.0] * 5
    assert task.scores(["\\boxed{0.333333}"], [r"\frac{1}{3}"]) == [1.0]  # math-verify's own tolerance stays


@pytest.mark.parametrize(
    ("answer", "completion", "right"),
    [
        ("42", "So it is \\boxed{42}.", True),
        ("42", "The answer is 42.", True),
        ("42", "#### 42", True),
        ("1,234", "... #### 1234", True),
        ("42", "First 42, then \\boxed{41}", False),
        ("42", "#### 41, not 42", False),
        ("42", "", False),
        ("42", "\\boxed{", False),
        (r"\frac{1}{2}", "\\boxed{0.5}", True),
        (r"\frac{1}{2}", "$\\frac{2}{4}$", True),
        (r"\frac{1}{2}", "\\boxed{\\frac{1}{3}}", False),
        ("x^2+2x+1", "\\boxed{(x+1)^2}", True),
        ("x^2+2x+1", "\\boxed{(x+1)^3}", False),
        ("(3,4)", "\\boxed{(3,4)}", True),
        ("(3,4)", "\\boxed{(4,3)}", False),
    ],
)
def test_equal_expressions_are_right(task: Math, answer: str, completion: str, right: bool) -> None:
    assert task.correct(completion, answer) is right


def test_what_never_ends_is_wrong_and_the_next_is_checked(task: Math) -> None:
    began = time.monotonic()
    completions = ["\\boxed{9^{9^{9^{9}}}}", "\\boxed{42}", "\\boxed{(1000000!)!}", "\\boxed{42}"]
    assert task.scores(completions, ["42"] * 4) == [0.0, 1.0, 0.0, 1.0]
    assert time.monotonic() - began < 25


def test_a_process_that_is_killed_is_started_again(task: Math) -> None:
    assert task.correct("42", "42")
    process = module._comparer(1.0).process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert task.scores(["42", "42"], ["42", "42"])[1] == 1.0


NUMBER = st.integers(-40, 40).map(str)
VALUES = st.one_of(
    NUMBER,
    st.tuples(st.integers(1, 9), st.integers(2, 9)).map(lambda two: r"\frac{{{}}}{{{}}}".format(*two)),
    st.decimals(0, 40, places=2).map(str),
    st.integers(1000, 99999).map("{:,}".format),
    st.tuples(NUMBER, NUMBER).map(lambda two: "({}, {})".format(*two)),
    st.tuples(NUMBER, NUMBER).map(lambda two: "{}x + {}".format(*two)),
    st.integers(2, 9).map(r"\sqrt{{{}}}".format),
    st.sampled_from([r"\text{east}", r"\text{(B)}", r"50\%", r"x = 3", r"\{1, 2\}", r"[0, \infty)"]),
)
WRITTEN = [
    "{}",
    "So it is {}.",
    "The answer is {}. I hope it is right.",
    "So $x = 7$, and\n\\boxed{{{}}}",
    "$${}$$",
    "**Answer:** ${}$",
    "#### Step 1\nDo 9.\n#### Step 2\n$\\boxed{{{}}}$ it is",
    "#### Final Answer\n{}",
    "#### {}",
    "First \\boxed{{3}}, then \\boxed{{{}}}.",
]


@settings(max_examples=40)
@given(VALUES, st.none() | VALUES, st.sampled_from(WRITTEN))
def test_completions_are_read_as_math_verify_reads_them(
    tmp_path_factory: pytest.TempPathFactory, right: str, other: str | None, written: str
) -> None:
    """Untouched, in the library's own process, with its own settings."""
    from math_verify import parse, verify

    task = math_task(tmp_path_factory.getbasetemp(), PLAIN, seconds=5)
    completion = written.format(right if other is None else other)
    expected = verify(
        parse(f"\\boxed{{{right}}}", parsing_timeout=None),
        parse(completion, parsing_timeout=None),
        timeout_seconds=None,
    )
    assert task.correct(completion, right) is expected
    if other is None and "3}," not in written:
        assert expected or "{}" in written  # a box of the right answer is right
