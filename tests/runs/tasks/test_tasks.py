"""Tasks: deterministic prompts, exact checks, held-out prompts that are never trained on."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scramble.errors import RecipeError, RunError
from scramble.runs.tasks import FewShotSums, ReasoningGym
from scramble.runs.tasks.data import task
from tests.training import swept


@given(st.integers(0, 100), st.integers(0, 4))
def test_sums_are_right_and_their_answers_are_accepted(seed: int, shots: int) -> None:
    sums = FewShotSums(name="few-shot-sums", size=20, seed=seed, shots=shots)
    for example in sums.examples():
        *solved, question = example.prompt.split("\n")
        assert len(solved) == shots
        for line in [*solved, question + example.answer]:
            a, b, c = map(int, re.fullmatch(r"(\d+)\+(\d+)=(\d+)", line).groups())  # type: ignore[union-attr]
            assert a + b == c
            assert 2 <= min(a, b) <= max(a, b) <= 19
        assert sums.correct(example.answer, example.answer)
        assert sums.correct(f" {example.answer}\n3+4", example.answer)
        assert not sums.correct(example.answer + "0", example.answer)
        assert not sums.correct(f"= {example.answer}", example.answer)
        assert not sums.correct("", example.answer)


def test_prompts_follow_their_seed() -> None:
    one, same, other = (FewShotSums(name="few-shot-sums", size=50, seed=s).examples() for s in (0, 0, 1))
    assert one == same != other


@given(st.integers(0, 50), st.integers(1, 200), st.integers(1, 40))
def test_held_out_prompts_are_different_and_not_trained_on(seed: int, size: int, held_out: int) -> None:
    sums = FewShotSums(name="few-shot-sums", size=size, seed=seed, shots=0)
    found = sums.held_out(held_out)
    assert found == sums.held_out(held_out)
    prompts = {example.prompt for example in found}
    assert len(prompts) == len(found) == held_out
    assert not prompts & {example.prompt for example in sums.examples()}
    assert all(sums.correct(example.answer, example.answer) for example in found)


def test_held_out_prompts_that_do_not_exist_are_refused() -> None:
    few = FewShotSums(name="few-shot-sums", size=64, shots=0, low=0, high=1)
    with pytest.raises(RecipeError, match=r"evaluation\.size: 4 prompts outside training"):
        few.held_out(4)


@pytest.mark.parametrize(
    "dataset", swept(["chain_sum", "letter_counting", "spell_backward", "basic_arithmetic"], kept=1)
)
def test_any_reasoning_gym_data_set_is_deterministic(dataset: str) -> None:
    gym = ReasoningGym(name="reasoning-gym", dataset=dataset, size=10, seed=4)
    examples = gym.examples()
    assert examples == gym.examples()
    assert len(examples) == 10
    for example in examples:
        assert example.prompt.endswith("\nAnswer:")
        assert gym.correct(f" {example.text}\nand so on", example.answer)
        assert not gym.correct(f" #{example.text[1:]}", example.answer)
        assert not gym.correct("\n" * 3, example.answer)
    assert not {one.prompt for one in gym.held_out(5)} & {one.prompt for one in examples}


def test_a_data_set_that_is_not_there_is_refused() -> None:
    with pytest.raises(RecipeError, match="nonesuch"):
        ReasoningGym(name="reasoning-gym", dataset="nonesuch").examples()


@pytest.mark.train
def test_settings_that_do_not_fit_a_data_set_are_refused() -> None:
    with pytest.raises(RecipeError, match="does not extract the answer"):
        ReasoningGym(name="reasoning-gym", dataset="tower_of_hanoi", size=3).checked_examples()
    whole = ReasoningGym(name="reasoning-gym", dataset="tower_of_hanoi", size=3, answer_pattern=r"([\s\S]*)")
    assert len(whole.checked_examples()) == 3
    with pytest.raises(RecipeError, match="colour"):
        ReasoningGym(name="reasoning-gym", dataset="chain_sum", options={"colour": 1}).examples()


def test_a_check_that_hangs_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pattern that backtracks for ever: 2^40 ways to split the letters."""
    sums = FewShotSums(name="few-shot-sums", answer_pattern=r"((a+)+)b")
    limit = task.time_limit
    monkeypatch.setattr(task, "time_limit", lambda seconds, what: limit(0.3, what))
    with pytest.raises(RunError, match=r"task few-shot-sums: the check took more than 0\.3 s"):
        sums.scores(["a" * 40], ["1"])
    assert sums.scores(["ab"], ["a"]) == [1.0]


class _Wrong(FewShotSums):
    """Says whatever it is told to."""

    says: tuple[float, ...] = ()

    def check(self, completions: Sequence[str], answers: Sequence[str]) -> list[Any]:
        return list(self.says)


def test_scores_that_are_none_are_one_line() -> None:
    with pytest.raises(RunError, match="1 scores for 2 completions"):
        _Wrong(name="few-shot-sums", says=(1.0,)).scores(["a", "b"], ["1", "2"])
    with pytest.raises(RunError, match=r"the score of \'b\' is nan, not in \[0, 1\]"):
        _Wrong(name="few-shot-sums", says=(1.0, math.nan)).scores(["a", "b"], ["1", "2"])


def test_of_a_chat_the_last_message_of_the_model_counts() -> None:
    sums = FewShotSums(name="few-shot-sums")
    said = [{"role": "assistant", "content": "5"}]
    asked = {"role": "tool", "name": "calculator", "content": "7"}
    chats = [said, [*said, asked], [*said, asked, {"role": "assistant", "content": "7"}], []]
    assert sums.scores(chats, ["5", "5", "7", "5"]) == [1.0, 0.0, 1.0, 0.0]
