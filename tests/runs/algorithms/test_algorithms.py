"""Every algorithm trains, moves what it should, gives the same bits again, and another seed gives others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import log_softmax, logsigmoid
from transformers import AutoModelForCausalLM, AutoTokenizer

from scramble.runs.algorithms.preferences import preferences
from scramble.runs.engine.run import run
from scramble.runs.recipe.recipe import Recipe
from tests.models import weights
from tests.runs.conftest import ON_POLICY, SUPERVISED

pytestmark = pytest.mark.train
ALGORITHMS = ON_POLICY | SUPERVISED


def recipe(content: dict[str, Any], algorithm: dict[str, Any], **changes: Any) -> Recipe:
    return Recipe.model_validate(content | {"algorithm": algorithm} | changes)


@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS)
def test_same_recipe_same_bits_and_another_seed_others(
    algorithm: dict[str, Any], content: dict[str, Any], tmp_path: Path
) -> None:
    one, again, other = (
        run(recipe(content, algorithm, seed=seed), tmp_path / out, threads=1)
        for out, seed in (("one", 1), ("again", 1), ("one", 2))
    )
    ends = [weights(folder.checkpoint(2, fp32=True)) for folder in (one, again, other)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert not all(torch.equal(ends[0][name], ends[2][name]) for name in ends[0])


@pytest.mark.parametrize("algorithm", ON_POLICY.values(), ids=ON_POLICY)
def test_the_reward_rises(algorithm: dict[str, Any], content: dict[str, Any], tmp_path: Path) -> None:
    """The answer to all of these prompts is `0`."""
    task = content["task"] | {"high": 0}
    rising = recipe(
        content,
        algorithm | {"prompts": 4},
        task=task,
        steps=16,
        fp32_steps=[],
        optimizer={"learning_rate": 1e-2},
    )
    metrics = run(rising, tmp_path, threads=1).metrics
    assert [row["step"] for row in metrics] == list(range(1, 17))
    scores = [row["score"] for row in metrics if "score" in row]
    assert sum(scores[-2:]) / 2 > scores[0] + 0.3
    assert all({"loss", "grad_norm", "entropy"} <= row.keys() for row in metrics)
    assert all(row["tokens_per_second"] > 0 for row in metrics if "score" in row)
    assert all(("kl" in row) == (algorithm.get("beta", 0) > 0) for row in metrics if "score" in row)


@pytest.mark.parametrize("algorithm", SUPERVISED.values(), ids=SUPERVISED)
def test_the_loss_falls(algorithm: dict[str, Any], content: dict[str, Any], tmp_path: Path) -> None:
    whole = algorithm | {"batch": 32}
    falling = recipe(content, whole, steps=6, fp32_steps=[], optimizer={"learning_rate": 1e-2})
    metrics = run(falling, tmp_path, threads=1).metrics
    assert metrics[-1]["loss"] < 0.8 * metrics[0]["loss"]
    assert all("reward" not in row and row["tokens_per_second"] > 0 for row in metrics)


@pytest.mark.parametrize("name", ["grpo", "sft", "simpo"])
def test_bf16_arithmetic_trains_float32_weights(name: str, content: dict[str, Any], tmp_path: Path) -> None:
    half = recipe(content, ALGORITHMS[name], precision="bf16", steps=1, fp32_steps=[1])
    end = weights(run(half, tmp_path, threads=1).checkpoint(1, fp32=True))
    assert any(not torch.equal(value, value.to(torch.bfloat16).float()) for value in end.values())


def test_sampling_happens_once_in_mini_batches_times_iterations(
    content: dict[str, Any], tmp_path: Path
) -> None:
    algorithm = content["algorithm"] | {"mini_batches": 2, "iterations": 2}
    metrics = run(recipe(content, algorithm, steps=5), tmp_path, threads=1).metrics
    assert [("reward" in row, "rollouts" in row) for row in metrics] == [
        (True,) * 2,
        *[(False,) * 2] * 3,
        (True,) * 2,
    ]
    assert any(row["clip_ratio/region_mean"] > 0 for row in metrics[1:4])
    assert recipe(content, algorithm).algorithm.rollouts(5) == 2 * 16


def test_micro_batches_change_nothing_but_rounding(content: dict[str, Any], tmp_path: Path) -> None:
    for name in ("rejection_sft", "sft", "simpo"):
        algorithm = ALGORITHMS[name]
        ends = [
            weights(run(recipe(content, algorithm | {"micro_batch": micro}, optimizer={"name": "sgd"}),
                        tmp_path, threads=1).checkpoint(2, fp32=True))
            for micro in (4, None)
        ]  # fmt: skip
        assert all(torch.allclose(ends[0][key], ends[1][key], atol=1e-5) for key in ends[0])


def test_losses_of_given_texts_are_their_definitions(
    content: dict[str, Any], start: Path, tmp_path: Path
) -> None:
    """Each against a slow one: SFT's and SimPO's of the start, DPO's of what one step made of it."""
    task = recipe(content, {}).task
    pairs = preferences(task, task.examples())
    models = {}

    def metrics(name: str, **settings: float) -> list[dict[str, Any]]:
        algorithm = {"name": name, "batch": len(pairs)} | settings
        folder = run(recipe(content, algorithm, fp32_steps=[1]), tmp_path, threads=1)
        models[name] = folder.checkpoint(1, fp32=True)
        return folder.metrics

    def total(model: Path, completion: str, mean: bool = False) -> torch.Tensor:
        found = torch.stack(
            [_log_likelihood(model, pair.prompt, getattr(pair, completion), mean) for pair in pairs]
        )
        return found

    assert metrics("sft")[0]["loss"] == pytest.approx(
        -total(start, "chosen", mean=True).mean().item(), rel=1e-4
    )
    margin = total(start, "chosen", mean=True) - total(start, "rejected", mean=True)
    simpo = -logsigmoid(3 * margin - 0.7).mean().item()
    assert metrics("simpo", beta=3, gamma=0.7)[0]["loss"] == pytest.approx(simpo, rel=1e-4)
    dpo = metrics("dpo", beta=0.4)
    gain = total(models["dpo"], "chosen") - total(start, "chosen")
    loss = total(models["dpo"], "rejected") - total(start, "rejected")
    assert dpo[0]["loss"] == pytest.approx(torch.log(torch.tensor(2.0)).item(), rel=1e-5)
    assert dpo[1]["loss"] == pytest.approx(-logsigmoid(0.4 * (gain - loss)).mean().item(), rel=1e-4)


def _log_likelihood(model: Path, prompt: str, completion: str, mean: bool) -> torch.Tensor:
    """Of a completion and the end of text; the answers here are one token, so all have the same length."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    before = tokenizer(prompt)["input_ids"]
    after = [*tokenizer(completion)["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        logits = _model(model)(torch.tensor([before + after])).logits[0, len(before) - 1 : -1]
    found = log_softmax(logits, dim=-1)[range(len(after)), after]
    return found.mean() if mean else found.sum()


_MODELS: dict[Path, Any] = {}


def _model(path: Path) -> Any:
    if path not in _MODELS:
        _MODELS[path] = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    return _MODELS[path]


def test_simpo_has_no_reference_model_and_dpo_has(
    content: dict[str, Any], monkeypatch: Any, tmp_path: Path
) -> None:
    from transformers import Trainer

    held = {}

    def train(self: Any) -> None:
        held[type(self).__name__] = getattr(self, "ref_model", None)
        raise RuntimeError("seen")

    monkeypatch.setattr(Trainer, "train", train)
    for name in ("simpo", "dpo"):
        with pytest.raises(Exception, match="seen"):
            run(recipe(content, SUPERVISED[name]), tmp_path, threads=1)
    assert held["SimPoTrainer"] is None
    assert held["DPOTrainer"] is not None


def test_a_bos_token_that_the_tokenizer_does_not_set_is_not_set(
    content: dict[str, Any], start: Path, tmp_path: Path
) -> None:
    """As in SmolLM2, whose tokenizer names one and does not use it."""
    before = run(recipe(content, SUPERVISED["simpo"]), tmp_path / "before", threads=1).metrics
    tokenizer = AutoTokenizer.from_pretrained(start)
    tokenizer.bos_token = "A"
    tokenizer.save_pretrained(start)
    after = run(recipe(content, SUPERVISED["simpo"]), tmp_path / "after", threads=1).metrics
    assert [(row["num_tokens"], row["loss"]) for row in before] == [
        (row["num_tokens"], row["loss"]) for row in after
    ]


def test_only_right_completions_are_learned_from(
    content: dict[str, Any], start: Path, tmp_path: Path
) -> None:
    algorithm = ON_POLICY["rejection_sft"]
    folder = run(recipe(content, algorithm, steps=3), tmp_path, threads=1)
    assert [row["kept"] for row in folder.metrics] == [16 * row["score"] for row in folder.metrics]
    never = content["task"] | {"low": 45, "high": 45, "answer_pattern": " ?(90)$"}
    none = run(recipe(content, algorithm, task=never, steps=1, fp32_steps=[1]), tmp_path, threads=1)
    assert (none.metrics[0]["kept"], none.metrics[0]["loss"]) == (0, 0)
    old, new = weights(start), weights(none.checkpoint(1))
    assert all(torch.equal(old[name], new[name]) for name in old)
