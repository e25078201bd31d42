"""A scrambled checkpoint in vLLM: it loads, and computes what it does in transformers and what its base does.

Marked `vllm`: `make test-vllm` runs it in an environment of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scramble.operations.apply import apply
from tests.models import Tiny, with_tokenizer

pytestmark = pytest.mark.vllm

PROMPTS = ["7+12=19\n3+15=18\n9+4=13\n", "00+1=01\n99+1=100\n", "A: 5 - 3\n"]
TURNED = ("vo-rotation", "head-permutation", "qk-rotation", "neuron-permutation")
# float32 in both, sums in another order: up to 3e-6 was seen.
ARITHMETIC = 2e-5
# What was turned is rounded to bf16 again: 0.004 (llama) and 0.015 (qwen2) were seen, and 1.3 and 3.8 between
# unrelated models. A permutation rounds nothing.
STORAGE = 0.05
# One process for all engines: each gives its memory back, and only the first takes more than 3 s.
ENGINES = """
import json, sys
import vllm._custom_ops as ops
ops._supports_onednn = False  # oneDNN packs the weights: not every load is what was stored
from vllm import LLM, SamplingParams

prompts, out, folders = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3:]
asked = SamplingParams(max_tokens=1, prompt_logprobs=0)
found = {}
for folder in folders:
    engine = LLM(folder, dtype="float32", max_model_len=64, enforce_eager=True)
    done = engine.generate(prompts, asked, use_tqdm=False)
    found[folder] = [
        [(token, one[token].logprob) for token, one in zip(a.prompt_token_ids[1:], a.prompt_logprobs[1:])]
        for a in done
    ]
    del engine
with open(out, "w") as file:
    json.dump(found, file)
"""
SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}

Scores = tuple[list[int], torch.Tensor]
"""Tokens of all prompts but the first of each, and their log-probabilities."""


def in_vllm(folders: list[Path], out: Path) -> list[Scores]:
    command = [sys.executable, "-c", ENGINES, json.dumps(PROMPTS), str(out), *map(str, folders)]
    done = subprocess.run(
        command, env=os.environ | SETTINGS, cwd=out.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(out.read_text())
    scores = []
    for folder in folders:
        pairs = [pair for prompt in found[str(folder)] for pair in prompt]
        scores.append(([token for token, _ in pairs], torch.tensor([value for _, value in pairs])))
    return scores


def in_transformers(folder: Path) -> Scores:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens, values = [], []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.inference_mode():
            scores = model(ids).logits.log_softmax(-1)
        tokens += ids[0, 1:].tolist()
        values.append(scores[0, :-1].gather(1, ids[0, 1:, None])[:, 0])
    return tokens, torch.cat(values)


def save(family: str, seed: int, folder: Path) -> Path:
    """A bf16 checkpoint with a tokenizer; its weights are of a trained model's size, so rounding stays small.

    vLLM knows head_dim 32 on the CPU, 16 it does not.
    """
    model = Tiny(family, kv_heads=2, group=2, head_dim=32, layers=2, seed=seed).build()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(1 if "norm" in name else 0.25)
    model.to(torch.bfloat16).save_pretrained(folder)
    return with_tokenizer(folder)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_vllm_computes_what_transformers_does_and_what_the_base_does(family: str, tmp_path: Path) -> None:
    names = ("base", "turned", "permuted", "other")
    base, turned, permuted, other = folders = [tmp_path / name for name in names]
    save(family, 3, base)
    save(family, 4, other)
    apply(base, turned, layers="all", symmetries=TURNED)
    apply(base, permuted, symmetries=("residual-permutation",))

    scores = dict(zip(names, in_vllm(folders, tmp_path / "scores.json"), strict=True))
    for name, folder in zip(names, folders, strict=True):
        tokens, values = in_transformers(folder)
        assert scores[name][0] == tokens
        apart = float((scores[name][1] - values).abs().max())
        print(f"{family} {name}: vLLM and transformers {apart:.1e}")
        assert apart < ARITHMETIC
    apart = {name: float((scores[name][1] - scores["base"][1]).abs().max()) for name in names}
    print(f"{family}, from the base in vLLM: {apart}")
    assert apart["permuted"] < ARITHMETIC
    assert ARITHMETIC < apart["turned"] < STORAGE
    assert apart["other"] > 10 * STORAGE
