"""The divergence from the start: what it is, and that measuring it changes nothing."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import log_softmax
from transformers import AutoModelForCausalLM, AutoTokenizer

from scramble.runs.engine.divergence import KlToStart
from scramble.runs.engine.run import run
from scramble.runs.engine.sampling import sampling
from scramble.runs.recipe.kl import Kl
from scramble.runs.recipe.recipe import Recipe
from tests.models import weights
from tests.runs.conftest import ON_POLICY, SUPERVISED

pytestmark = pytest.mark.train
SETTINGS = {"every": 2, "prompts": 5, "max_new_tokens": 7}


def test_measuring_disturbs_no_training(content: dict[str, Any], tmp_path: Path) -> None:
    for name, precision in (("grpo", "bf16"), ("sft", "fp32")):
        own = content | {"algorithm": (ON_POLICY | SUPERVISED)[name], "steps": 3, "fp32_steps": [3]}
        own |= {"precision": precision}
        without, with_it = (
            run(Recipe.model_validate(own | extra), tmp_path, threads=1) for extra in ({}, {"kl": SETTINGS})
        )
        assert without.path != with_it.path
        one, two = (weights(folder.checkpoint(3, fp32=True)) for folder in (without, with_it))
        assert all(torch.equal(one[key], two[key]) for key in one)
        assert ["kl_to_start" in row for row in with_it.metrics] == [False, True, True]
        assert all(row["kl_to_start"] > 0 for row in with_it.metrics[1:])


def test_arithmetic_in_bf16_is_no_divergence(content: dict[str, Any], tmp_path: Path) -> None:
    still = {"precision": "bf16", "optimizer": {"learning_rate": 1e-12}, "kl": SETTINGS}
    recipe = Recipe.model_validate(content | {"algorithm": SUPERVISED["sft"]} | still)
    assert abs(run(recipe, tmp_path, threads=1).metrics[-1]["kl_to_start"]) < 1e-9


def test_it_is_the_divergence_on_what_the_start_said(start: Path) -> None:
    """Against a slow definition, token by token; zero at the start; generators and modes stay."""
    tokenizer = AutoTokenizer.from_pretrained(start)
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32).train()
    prompts = ["1+1=", "12+3=", "0+0=\n2"]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    ids, asked = [tokenizer(prompt)["input_ids"] for prompt in prompts], sampling(model, tokenizer, 1.0, 9)
    kl = KlToStart(model, ids, asked, Kl(every=1, prompts=3, max_new_tokens=9))
    again = KlToStart(model, ids, asked, Kl(every=1, prompts=3, max_new_tokens=9))
    other = KlToStart(model, ids, asked, Kl(every=1, prompts=3, max_new_tokens=9, seed=1))
    assert model.training
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    texts = [[text.tolist() for text, _ in one.texts] for one in (kl, again, other)]
    assert texts[0] == texts[1] != texts[2]
    assert kl.measure() == 0
    before = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.05 * torch.randn_like(value))
        found = []
        for text, length in kl.texts:
            old = log_softmax(before(text).logits[0].double(), dim=-1)
            new = log_softmax(model.eval()(text).logits[0].double(), dim=-1)
            for at in range(length - 1, text.shape[1] - 1):
                found.append(sum(float(o.exp() * (o - n)) for o, n in zip(old[at], new[at], strict=True)))
    assert kl.measure() == pytest.approx(sum(found) / len(found), rel=1e-4)
    assert len(found) > 9
