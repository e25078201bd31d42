"""Mathematics: what the answer is, when two are equal, and expressions that would never end."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runs.tasks import Math
from runs.tasks import math as module
from runs.tasks.math import final_answer
from scramble.errors import RecipeError


@pytest.fixture
def task(tmp_path: Path) -> Math:
    rows = [
        {"prompt": "How many?", "answer": "Half of 84 is 84/2=<<84/2=42>>42.\n#### 42"},
        {"prompt": "What?", "answer": r"It is $\boxed{\frac{1}{\sqrt{2}}}$, as \boxed{\frac{1}{2}} is not."},
        {"prompt": "Which?", "answer": "1,234"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Math(name="math", data=str(tmp_path / "rows.jsonl"), seconds=1)


def test_answers_are_found_in_solutions(task: Math) -> None:
    assert [example.answer for example in task.checked_examples()] == ["42", r"\frac{1}{2}", "1,234"]
    assert task.examples()[0].prompt == "How many?\nPut the final answer into \\boxed{}.\n"


@given(st.recursive(st.sampled_from("ab 1"), lambda inner: inner.map(lambda text: f"x{{{text}}}y")))
def test_a_box_ends_where_its_brackets_do(inside: str) -> None:
    assert final_answer(f"so \\boxed{{{inside}}} {{}} }}") == inside.strip()


def test_a_box_that_does_not_end_is_no_answer() -> None:
    assert final_answer("\\boxed{1 + {2}") == ""


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


def test_an_answer_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "answer": "no end \\\\boxed{1"}\n')
    with pytest.raises(RecipeError, match=r"row 1: no answer in column 'answer'"):
        Math(name="math", data=str(path)).checked_examples()
    path.write_text('{"prompt": "a", "answer": "}"}\n')
    with pytest.raises(RecipeError, match="math-verify cannot read the answer '}'"):
        Math(name="math", data=str(path), seconds=1).checked_examples()
