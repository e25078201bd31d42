"""What TRL's trainers and transformers' do not promise: overridden methods are called, and by their names."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch

import scramble.runs.engine
import scramble.runs.trainers
from scramble.internals.method import Method
from scramble.internals.transformers import RESUMED, called
from scramble.runs.engine import train as engine
from scramble.runs.engine.resume import Resume
from scramble.runs.engine.run import run
from scramble.runs.internals import trl as internals
from scramble.runs.internals.accelerate import plain_forward, sampler
from scramble.runs.recipe.recipe import Recipe
from tests.methods import lack, overrides, owner, refusal
from tests.runs.conftest import ON_POLICY, SUPERVISED

ALGORITHMS = {
    "dapo": ON_POLICY["dapo"],
    "rejection_sft": ON_POLICY["rejection_sft"],
    "simpo": SUPERVISED["simpo"],
}


def classes() -> list[type]:
    """All that the packages with trainers and callbacks define."""
    found = []
    for package in (scramble.runs.trainers, scramble.runs.engine):
        for one in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            module = importlib.import_module(one.name)
            found += [
                kind for _, kind in inspect.getmembers(module, inspect.isclass) if kind.__module__ == one.name
            ]
    return found


def of(method: Method) -> list[type]:
    """Our classes that override a method."""
    return [kind for kind in classes() if issubclass(kind, owner(method)) and method.name in vars(kind)]


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What is returned by each method of `METHODS` as three algorithms train; nobody but TRL calls it."""
    from tests.models import Tiny, with_tokenizer

    out = tmp_path_factory.mktemp("runs")
    folder = Tiny("llama", 3, 2, 8, layers=2, tied=True, seed=1).save(out / "start", torch.bfloat16)
    task = {"name": "few-shot-sums", "size": 32, "high": 1, "low": 0, "answer_pattern": "[^012]*([012])"}
    content = {"model": str(with_tokenizer(folder)), "task": task, "precision": "fp32", "steps": 1}
    found: dict[str, list[Any]] = defaultdict(list)
    with pytest.MonkeyPatch.context() as patch:
        for method in internals.METHODS:
            for kind in of(method) or [owner(method)]:
                patch.setattr(kind, method.name, recording(vars(kind)[method.name], method.name, found))
        for name, algorithm in ALGORITHMS.items():
            run(Recipe.model_validate(content | {"algorithm": algorithm}), out / name, threads=1)
    return found


def recording(original: Any, name: str, found: dict[str, list[Any]]) -> Any:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        found[name].append(result)
        return result

    return method


@pytest.mark.parametrize("method", internals.METHODS, ids=lambda one: one.name)
def test_methods_are_what_they_were(method: Method) -> None:
    assert lack(method) is None


@pytest.mark.parametrize("method", internals.METHODS, ids=lambda one: one.name)
def test_what_stands_in_their_place_can_be_called_as_they_are(method: Method) -> None:
    kinds = of(method)
    assert bool(kinds) == method.overridden
    assert [refusal(method, vars(kind)[method.name]) for kind in kinds] == [None] * len(kinds)


@pytest.mark.parametrize("method", internals.METHODS, ids=lambda one: one.name)
@pytest.mark.train
def test_training_calls_them(method: Method, calls: dict[str, list[Any]]) -> None:
    assert calls[method.name]


def test_nothing_else_is_overridden() -> None:
    """Events of callbacks and the three methods of an optimizer apart, which are documented."""
    known = {(method.owner.rpartition(".")[2], method.name) for method in internals.METHODS}
    documented = {"step", "state_dict", "load_state_dict"}
    for kind in classes():
        bases = {base.__name__ for base in kind.__mro__}
        for name in overrides(kind):
            assert (
                name in documented or name.startswith("on_") or any((base, name) in known for base in bases)
            ), f"{kind.__name__}.{name}"


def test_what_our_trainers_keep_has_no_name_of_theirs() -> None:
    seen = 0
    for kind in classes():
        theirs = [base for base in kind.__mro__ if base.__module__.split(".")[0] in ("trl", "transformers")]
        text = "".join(inspect.getsource(base) for base in theirs)
        for name in set(re.findall(r"self\.(\w+)(?:: [^=\n]+)? =[^=]", inspect.getsource(kind))):
            if issubclass(kind, owner(internals.METHODS[0])):
                seen += 1
                assert not re.search(rf"\bself\.{name}\b", text), f"{kind.__name__}.{name}"
    assert seen >= 3


@pytest.mark.train
def test_what_is_relied_on_is_returned(calls: dict[str, list[Any]]) -> None:
    for batch in calls["_generate_and_score_completions"]:
        rows = len(batch["prompt_ids"])
        for name in ("prompt_mask", "completion_ids", "completion_mask", "advantages"):
            assert len(batch[name]) == rows
        assert batch["completion_mask"].shape == batch["completion_ids"].shape
        assert batch["advantages"].ndim == 1
    for rewards in calls["_calculate_rewards"]:
        assert rewards.shape == (16, 1)
    for tokens, logprobs in calls["_generate_single_turn"]:
        assert {type(one) for ids in tokens for one in ids} == {int}
        assert logprobs is None  # which vLLM alone gives
    for tokens, _, _ in calls["_tokenize_prompts"]:
        assert {type(one) for ids in tokens for one in ids} == {int}
    for logps, entropies, _ in calls["_get_per_token_logps_and_entropies"]:
        assert entropies is None or logps.shape == entropies.shape
        assert not logps.gt(0).any()
    for row in calls["tokenize_row"]:
        assert {f"{which}_input_ids" for which in ("prompt", "chosen", "rejected")} <= row.keys()
        assert len(row["chosen_labels"]) == len(row["chosen_input_ids"])


@pytest.mark.train
def test_a_trainer_has_what_is_reached_into(recipe: Recipe, tmp_path: Path, monkeypatch: Any) -> None:
    """Looked at as training begins, by a callback of the run."""
    seen: list[Any] = []
    begin = Resume.on_train_begin

    def look(self: Resume, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = self.trainer
        order = sampler(kwargs["train_dataloader"])
        first, second = list(order), list(order)
        assert sorted(set(first)) == sorted(set(second)) == list(range(32))
        assert first != second  # one epoch after the other
        assert called(trainer)[-1] is self
        assert {name for name in internals.COUNTERS if name in vars(trainer)} == {*internals.COUNTERS}
        internals.measure(trainer, "a metric of ours", 7.0)
        assert "forward" in vars(trainer.model_wrapped)  # by accelerate
        ids = torch.tensor([[3, 4, 5]], device=trainer.model.device)
        assert plain_forward(trainer.model, input_ids=ids).logits.dtype == torch.float32
        with torch.no_grad():
            wrapped = trainer.model(input_ids=ids).logits
            plain = plain_forward(trainer.model, input_ids=ids).logits
        seen.append((float((wrapped - plain).abs().max()), trainer.generation_config.max_new_tokens))
        begin(self, args, state, control, **kwargs)

    monkeypatch.setattr(Resume, "on_train_begin", look)
    bf16 = recipe.model_copy(update={"precision": "bf16"})
    folder = run(bf16, tmp_path / "out", threads=1)
    ((difference, new_tokens),) = seen
    assert difference > 0  # training computes in bf16, and this does not
    assert new_tokens == 6
    assert folder.metrics[0]["a metric of ours"] == 7.0
    assert "a metric of ours" not in folder.metrics[1]


@pytest.mark.parametrize("method", RESUMED.values(), ids=lambda one: one.name)
@pytest.mark.train
def test_a_resumed_trainer_calls_what_stands_in_the_place_of_each(
    method: Method, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted after the first step: going on fails where a reader fails."""
    part = next(name for name, one in RESUMED.items() if one is method)
    save = Resume._save

    def dying(self: Resume, *args: Any) -> None:
        save(self, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Resume, "_save", dying)
        with pytest.raises(KeyboardInterrupt):
            run(recipe.model_copy(update={"resume_every": 1}), tmp_path / "out", threads=1)
    given: list[Any] = []

    class ReachedError(Exception):
        pass

    def reader(self: Resume, path: str, *_: Any, **__: Any) -> None:
        given.append(path)
        raise ReachedError

    monkeypatch.setattr(Resume, f"_load_{part}", reader)
    with pytest.raises(Exception, match="the run failed"):
        run(recipe.model_copy(update={"resume_every": 1}), tmp_path / "out", threads=1)
    assert [Path(path).name for path in given] == ["step-1"]


@pytest.mark.train
def test_settings_of_sampling_are_those_of_the_trainer(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    used: list[Any] = []
    generate, sample_by = LlamaForCausalLM.generate, engine.sample_by

    def watched(self: Any, *args: Any, generation_config: Any = None, **kwargs: Any) -> Any:
        used.append(generation_config)
        return generate(self, *args, generation_config=generation_config, **kwargs)

    def marked(trainer: Any, settings: Any) -> None:
        settings.marked = "ours"
        sample_by(trainer, settings)

    monkeypatch.setattr(LlamaForCausalLM, "generate", watched)
    monkeypatch.setattr(engine, "sample_by", marked)
    run(recipe, tmp_path / "out", threads=1)
    assert {getattr(one, "marked", None) for one in used} == {"ours"}
