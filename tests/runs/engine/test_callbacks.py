"""Callbacks are called in the order that their classes declare, or the run is refused."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from transformers import DefaultFlowCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler

from scramble.errors import RunError
from scramble.runs.algorithms import Grpo
from scramble.runs.engine import train as engine
from scramble.runs.engine.divergence import KlToStart
from scramble.runs.engine.evaluate import Evaluator
from scramble.runs.engine.recorder import Recorder
from scramble.runs.engine.resume import Resume
from scramble.runs.engine.run import run
from scramble.runs.engine.update_norm import UpdateNorm
from scramble.runs.recipe.recipe import Recipe
from scramble.runs.trainers.callbacks import Callback, check_order, in_order

KINDS = (UpdateNorm, KlToStart, Evaluator, Recorder, Resume)


def bare(kind: type[Callback]) -> Callback:
    """A callback of a class, without what it works on."""
    return kind.__new__(kind)


class Handled:
    """A trainer, as far as callbacks see it."""

    def __init__(self, *callbacks: TrainerCallback) -> None:
        self.callback_handler: Any = CallbackHandler(
            [DefaultFlowCallback, *callbacks], None, None, None, None
        )


@pytest.mark.parametrize("given", [*itertools.permutations(KINDS)], ids=str)
def test_any_order_that_is_given_becomes_the_one_that_is_declared(given: tuple[type[Callback], ...]) -> None:
    found = [type(one) for one in in_order([bare(kind) for kind in given])]
    assert found[-2:] == [Recorder, Resume]
    assert found.index(UpdateNorm) < found.index(KlToStart)


@pytest.mark.parametrize("chosen", [KINDS, (Recorder, Resume), (UpdateNorm, Recorder, Resume)], ids=str)
def test_those_that_are_not_there_are_not_waited_for(chosen: tuple[type[Callback], ...]) -> None:
    callbacks = [bare(kind) for kind in chosen]
    assert in_order(callbacks) == callbacks
    check_order(Handled(*callbacks), callbacks)


def test_a_circle_is_refused() -> None:
    class Last(Callback):
        after = (TrainerCallback,)

    class AlsoLast(Callback):
        after = (TrainerCallback,)

    with pytest.raises(RunError, match=r"no order .* Last, AlsoLast"):
        in_order([Last(), AlsoLast()])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (KlToStart, UpdateNorm),
        (Recorder, UpdateNorm),
        (Recorder, KlToStart),
        (Recorder, Evaluator),
        *((Resume, kind) for kind in KINDS[:-1]),
    ],
)
def test_a_trainer_that_calls_them_otherwise_is_refused(
    first: type[Callback], second: type[Callback]
) -> None:
    callbacks = [bare(first), bare(second)]
    wrong = f"calls {second.__name__} after {first.__name__}"
    with pytest.raises(RunError, match=wrong):
        check_order(Handled(*callbacks), callbacks)
    check_order(Handled(*callbacks[::-1]), callbacks)


def test_a_trainer_that_leaves_one_out_or_calls_it_twice_is_refused() -> None:
    resume = bare(Resume)
    with pytest.raises(RunError, match="Resume 0 times"):
        check_order(Handled(bare(Recorder)), [resume])
    with pytest.raises(RunError, match="Resume 2 times"):
        check_order(Handled(resume, resume), [resume])


def test_transformers_calls_them_in_the_order_of_the_list(tmp_path: Path) -> None:
    calls: list[str] = []

    class One(TrainerCallback):
        def on_log(self, *_: Any, **__: Any) -> None:
            calls.append("one")

    class Two(TrainerCallback):
        def on_log(self, *_: Any, **__: Any) -> None:
            calls.append("two")

    handler = Handled(Two(), One()).callback_handler
    handler.on_log(TrainingArguments(str(tmp_path)), TrainerState(), TrainerControl(), {"loss": 1.0})
    assert calls == ["two", "one"]


def test_a_run_whose_trainer_adds_one_after_ours_is_refused(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = Grpo.build

    def adding(self: Grpo, job: Any) -> Any:
        trainer = build(self, job)
        trainer.add_callback(TrainerCallback)
        return trainer

    monkeypatch.setattr(Grpo, "build", adding)
    with pytest.raises(RunError, match="calls TrainerCallback after Resume"):
        run(recipe, tmp_path / "out", threads=1)


@pytest.mark.train
def test_a_run_calls_them_in_the_declared_order(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever order `train` names them in, trackers of metrics among them."""
    sections = {"report_to": ["tensorboard"], "match": {"update_norm": 1e9}, "kl": {"every": 1, "prompts": 2}}
    sections |= {"evaluation": {"size": 2, "samples": 1, "k": [1]}}
    seen: list[list[str]] = []

    def watching(trainer: Any, callbacks: list[Callback]) -> None:
        check_order(trainer, callbacks)
        seen.append([type(one).__name__ for one in trainer.callback_handler.callbacks])

    monkeypatch.setattr(engine, "check_order", watching)
    monkeypatch.setattr(engine, "in_order", lambda callbacks: in_order(callbacks[::-1]))
    run(Recipe.model_validate(content | sections), tmp_path / "out", threads=1)
    (names,) = seen
    assert "TensorBoardCallback" in names
    ours = [name for name in names if name in {kind.__name__ for kind in KINDS}]
    assert ours[-2:] == ["Recorder", "Resume"]
    assert len(ours) == len(KINDS)
    assert names[-1] == "Resume"
