"""reasoning-gym: its own scorers say what is right, apart from the process that trains."""

from __future__ import annotations

import itertools
import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from scramble.errors import RecipeError, RunError
from scramble.runs.algorithms import Sft
from scramble.runs.algorithms.preferences import preferences
from scramble.runs.engine.run import run
from scramble.runs.recipe.recipe import Recipe
from scramble.runs.tasks import Example, ReasoningGym
from scramble.runs.tasks import reasoning_gym as module
from tests.training import swept

reasoning_gym = pytest.importorskip("reasoning_gym")
WHOLE = r"([\s\S]*)"
SEED, SIZE = 5, 8
# Quick to make; arithmetic, expressions, lists that are evaluated, grids, words, games. Each data set needs a
# process, which imports for seconds: the first two stand for the others where nothing trains.
SCORED = [
    *("countdown", "binary_matrix", "simple_integration", "polynomial_equations", "string_insertion", "jugs"),
    *("spiral_matrix", "puzzle24", "n_queens", "prime_factorization", "word_sorting"),
    *("decimal_chain_sum", "shortest_path"),
]


def gym(dataset: str, **settings: Any) -> ReasoningGym:
    settings = {"seed": SEED, "size": SIZE, "answer_pattern": WHOLE} | settings
    return ReasoningGym(name="reasoning-gym", dataset=dataset, **settings)


def planted(answer: str, other: str, rng: random.Random) -> list[str]:
    """Texts near the right one: right in another writing, or wrong."""
    digits = [at for at, one in enumerate(answer) if one.isdigit()]
    at = rng.choice(digits) if digits else 0
    changed = answer[:at] + (str((int(answer[at]) + 1) % 10) if digits else "#") + answer[at + 1 :]
    return [other, changed, answer[::-1], f"({answer})", f"{answer}0", answer.replace(" ", "  ")]


@pytest.mark.parametrize("dataset", swept(SCORED, 2))
def test_right_is_what_its_own_scorer_gives_full_marks(dataset: str) -> None:
    """On its own answers, those of other entries, and near ones; here the scorer runs in the test itself."""
    data = reasoning_gym.create_dataset(dataset, seed=SEED, size=SIZE)
    task, rng = gym(dataset), random.Random(dataset)
    examples = task.checked_examples()
    entries = list(data)
    assert [one.text for one in examples] == [entry["answer"] for entry in entries]
    texts, answers, expected = [], [], []
    for example, entry, other in zip(examples, entries, entries[1:] + entries[:1], strict=True):
        for text in [entry["answer"], *planted(entry["answer"], other["answer"], rng)]:
            texts.append(text)
            answers.append(example.answer)
            expected.append(_full(data, text.strip(), entry))
    assert task.scores(texts, answers) == expected
    assert expected[::7] == [1.0] * SIZE
    assert 0.0 in expected


def _full(data: Any, text: str, entry: dict[str, Any]) -> float:
    try:
        return float(data.score_answer(text, entry) >= 1)
    except Exception:
        return 0.0


@pytest.mark.parametrize(
    ("dataset", "other"),
    swept(
        [
            ("countdown", "({})"),
            ("puzzle24", "({})"),
            ("simple_integration", "7 + {}"),
            ("polynomial_multiplication", "0 + {}"),
            ("decimal_chain_sum", "{}0"),
        ],
        kept=1,
    ),
)
def test_another_right_answer_is_right(dataset: str, other: str) -> None:
    task = gym(dataset, size=3)
    for example in task.examples():
        text = example.text if "." in example.text or dataset != "decimal_chain_sum" else f"{example.text}."
        assert task.correct(other.format(text), example.answer)
        assert not task.correct(f"{text} and more", example.answer)


def test_data_sets_without_one_answer_are_scored_too() -> None:
    options = {"min_num_vertices": 4, "max_num_vertices": 4}
    data = reasoning_gym.create_dataset("graph_color", seed=SEED, size=3, **options)
    task = gym("graph_color", size=3, options=options)
    examples = task.checked_examples()
    for example, entry in zip(examples, data, strict=True):
        puzzle = entry["metadata"]["puzzle"]
        names = [str(vertex) for vertex in puzzle["vertices"]]
        colourings = [
            dict(zip(names, colours, strict=True))
            for colours in itertools.product(puzzle["color_options"], repeat=len(names))
        ]
        right = [all(one[str(a)] != one[str(b)] for a, b in puzzle["edges"]) for one in colourings]
        some = [*random.Random(0).sample(range(len(right)), 12), right.index(True)]
        said = [json.dumps(colourings[at]) for at in some]
        assert task.scores(said, [example.answer] * 13) == [float(right[at]) for at in some]
    with pytest.raises(RecipeError, match="there is a check and no answer to imitate"):
        Sft(name="sft").task_rows(task, examples)
    with pytest.raises(RecipeError, match="there is a check and no answer to imitate"):
        preferences(task, examples)


HOSTILE = [
    "exit()",
    "9**9**9**9",
    "print(1)",
    "().__class__.__bases__[0].__subclasses__()",
    "exec('import os; os.write(1, b\"1\\\\n\")')",
    "exec('import os; [os.write(fd, b\"1\") for fd in range(3, 9)]')",
    "exec('import os; os.kill(os.getppid(), 9)')",
    "exec('import reasoning_gym.games.countdown as c; c.CountdownDataset.score_answer = lambda *_: 1.0')",
    "exec('import os; os.fork()')",
    "[0] * 10**12",
    "\x00",
    "",
]


def test_what_a_text_does_stays_with_it(tmp_path: Path) -> None:
    """Scorers evaluate texts: they hang, exit, write, start processes or change the scorer in vain."""
    task = gym("countdown", size=2)
    right, wrong = task.examples()[0], "1"
    path = tmp_path / "written"
    texts = [*HOSTILE, f"open({str(path)!r}, 'w').write('x')"]
    began = time.monotonic()
    for text in texts:
        assert task.scores([text, wrong, right.text], [right.answer] * 3) == [0.0, 0.0, 1.0]
    assert not path.exists()
    assert time.monotonic() - began < 240


@pytest.mark.train
def test_the_check_that_is_in_force_is_recorded(content: dict[str, Any], tmp_path: Path) -> None:
    assert gym("chain_sum").facts() == {"scorer": "the data set's own, full mark"}
    assert gym("basic_arithmetic").facts() == {"scorer": "exact match"}
    # The prompt says nothing of the question, which would not fit into the small model's context.
    task = {"name": "reasoning-gym", "dataset": "countdown", "size": 4, "template": "Which? "}
    folder = run(
        Recipe.model_validate(content | {"task": task, "steps": 1, "fp32_steps": []}), tmp_path / "out"
    )
    assert folder.record.content()["task"] == {"scorer": "the data set's own, full mark"}
    assert folder.metrics[0]["score"] == 0.0


def test_without_a_scorer_of_its_own_a_part_of_the_mark_is_no_answer() -> None:
    task = gym("basic_arithmetic", size=4)
    for example in task.checked_examples():
        assert task.scores([example.text, f"{example.text} or so"], [example.answer] * 2) == [1.0, 0.0]


@pytest.mark.train
def test_what_cannot_be_said_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    task = gym("countdown", size=2)
    (example, _) = task.examples()
    other = json.loads(example.answer) | {"digest": "0"}
    with pytest.raises(RunError, match="it makes other entries from the same seed than before"):
        task.correct("1", json.dumps(other))
    with pytest.raises(RunError, match="the process that makes entries and scores died"):
        task.correct("1", json.dumps(other | {"index": "none"}))
    assert task.correct(example.text, example.answer)
    monkeypatch.setattr(module._Scorer, "right", lambda *_: True)
    with pytest.raises(RecipeError, match="gives full marks to no answer at all"):
        task.checked_examples()
    monkeypatch.setattr(module._Scorer, "right", lambda *_: False)
    with pytest.raises(RecipeError, match=r"does not give its answer .* full marks"):
        task.checked_examples()


def test_answers_are_those_of_the_data_set() -> None:
    """The example names its entry, so that equal examples are checked alike."""
    first, second = gym("countdown", size=2).examples()
    assert first == Example(first.prompt, first.answer, first.text)
    assert first.answer != second.answer
    held_out = gym("countdown", size=2).held_out(2)
    assert {json.loads(one.answer)["seed"] for one in held_out} == {SEED + 1}
    assert all(gym("countdown").correct(one.text, one.answer) for one in held_out)


@pytest.mark.parametrize("dataset", ["list_functions", "polynomial_multiplication", "word_ladder"])
@pytest.mark.train
def test_entries_follow_the_seed_in_every_process(dataset: str) -> None:
    """These data sets follow the order of sets, or the global generator."""
    task = gym(dataset, size=20)
    first = task.checked_examples()
    random.seed(7)
    module._scorer.cache_clear()
    assert task.examples() == first
    assert task.scores([one.text for one in first], [one.answer for one in first]) == [1.0] * 20


@pytest.mark.train
def test_of_many_data_sets_few_processes_live() -> None:
    from scramble.runs.tasks.workers.worker import _MOST_ALIVE, Worker

    tasks = [gym(dataset, size=2) for dataset in SCORED[: _MOST_ALIVE + 2]]
    right = [task.examples()[0] for task in tasks]
    for _ in range(2):
        for task, example in zip(tasks, right, strict=True):
            assert task.correct(example.text, example.answer)
            assert len(Worker._alive) <= _MOST_ALIVE
