"""Tasks: deterministic prompts, exact checks."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runs.tasks import FewShotSums, ReasoningGym
from scramble.errors import RecipeError


@given(st.integers(0, 100), st.integers(0, 4))
def test_sums_are_right_and_their_answers_are_accepted(seed: int, shots: int) -> None:
    task = FewShotSums(name="few-shot-sums", size=20, seed=seed, shots=shots)
    for example in task.examples():
        *solved, question = example.prompt.split("\n")
        assert len(solved) == shots
        for line in [*solved, question + example.answer]:
            a, b, c = map(int, re.fullmatch(r"(\d+)\+(\d+)=(\d+)", line).groups())  # type: ignore[union-attr]
            assert a + b == c
            assert 2 <= min(a, b) <= max(a, b) <= 19
        assert task.correct(example.answer, example.answer)
        assert task.correct(f" {example.answer}\n3+4", example.answer)
        assert not task.correct(example.answer + "0", example.answer)
        assert not task.correct(f"= {example.answer}", example.answer)
        assert not task.correct("", example.answer)


def test_prompts_follow_their_seed() -> None:
    one, same, other = (FewShotSums(name="few-shot-sums", size=50, seed=s).examples() for s in (0, 0, 1))
    assert one == same != other


@pytest.mark.parametrize("dataset", ["chain_sum", "letter_counting", "spell_backward", "basic_arithmetic"])
def test_any_reasoning_gym_data_set_is_deterministic_and_exact(dataset: str) -> None:
    task = ReasoningGym(name="reasoning-gym", dataset=dataset, size=10, seed=4)
    examples = task.examples()
    assert examples == task.examples()
    assert len(examples) == 10
    for example in examples:
        assert example.prompt.endswith("\nAnswer:")
        assert task.correct(f" {example.answer}\nand so on", example.answer)
        assert not task.correct(f" {example.answer}1", example.answer)
        assert not task.correct("\n" * 3, example.answer)


def test_a_data_set_that_is_not_there_is_refused() -> None:
    with pytest.raises(RecipeError, match="nonesuch"):
        ReasoningGym(name="reasoning-gym", dataset="nonesuch").examples()
    with pytest.raises(RecipeError, match="scores answers by a program"):
        ReasoningGym(name="reasoning-gym", dataset="graph_color").examples()
    with pytest.raises(RecipeError, match="does not extract the answer"):
        ReasoningGym(name="reasoning-gym", dataset="tower_of_hanoi", size=3).checked_examples()
    whole = ReasoningGym(name="reasoning-gym", dataset="tower_of_hanoi", size=3, answer_pattern=r"([\s\S]*)")
    assert len(whole.checked_examples()) == 3
    with pytest.raises(RecipeError, match="colour"):
        ReasoningGym(name="reasoning-gym", dataset="chain_sum", options={"colour": 1}).examples()
