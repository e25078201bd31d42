"""Adapters move what they should, and what is written is a plain checkpoint in the start's frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from runs.adapters import Adapted, Adapter
from runs.recipe import Recipe
from runs.run import run
from scramble.updates.ends import ends
from tests.conftest import Command
from tests.models import weights
from tests.runs.conftest import ON_POLICY, SUPERVISED

pytestmark = pytest.mark.filterwarnings("ignore")
NAMES = ("lora", "pissa", "dora", "rslora", "olora")
TARGETS = ["q_proj", "down_proj"]


@pytest.fixture
def adapted(content: dict[str, Any]) -> Any:
    def recipe(name: str, **changes: Any) -> Recipe:
        adapter = {"name": name, "rank": 2, "targets": TARGETS} | changes.pop("adapter", {})
        own = {"algorithm": {"name": "sft", "batch": 8}, "optimizer": {"learning_rate": 1e-2}}
        return Recipe.model_validate(content | own | {"adapter": adapter} | changes)

    return recipe


@pytest.mark.parametrize("name", NAMES)
def test_only_targets_move_by_a_product_of_the_rank(
    name: str, adapted: Any, start: Path, tmp_path: Path
) -> None:
    folder = run(adapted(name), tmp_path, threads=1)
    again = run(adapted(name), tmp_path / "again", threads=1)
    assert folder.record["end"] == again.record["end"]
    old, new = weights(start), weights(folder.checkpoint(2, fp32=True))
    bf16 = weights(folder.checkpoint(2))
    assert old.keys() == new.keys() == bf16.keys()
    assert all(torch.equal(bf16[key], new[key].bfloat16()) for key in new)
    for key, value in old.items():
        update = new[key].double() - value.double()
        if not any(target in key for target in TARGETS):
            assert torch.equal(new[key], value.float()), key
            continue
        singular = torch.linalg.svdvals(update)
        assert singular[0] > 1e-3, key
        # PiSSA and OLoRA take two products' difference; DoRA scales columns of the whole weight.
        rank = {"lora": 2, "rslora": 2, "pissa": 4, "olora": 4, "dora": min(value.shape) - 1}[name]
        assert (singular[rank:] < 1e-5 * singular[0]).all() or name == "dora", key
    record = folder.record
    assert record["adapter_start"]["largest_relative_error"] < 1e-6
    assert record["seeds"]["adapter"] == 1
    shapes = [value.shape for key, value in old.items() if any(target in key for target in TARGETS)]
    trained = sum(2 * (rows + columns) + (rows if name == "dora" else 0) for rows, columns in shapes)
    assert record["trainable"] == {"weights": trained, "of": sum(v.numel() for v in old.values())}


@pytest.mark.parametrize("name", NAMES)
def test_the_merged_model_is_the_model(name: str, start: Path) -> None:
    """Logits of the merged weights in a plain model are those of the model with the adapter."""
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    wrapped = Adapted(model, Adapter(name=name, rank=3, alpha=5), 1)
    torch.manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(0.1 * torch.randn_like(value))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    plain = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    plain.load_state_dict(wrapped.merged())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    tokens = torch.randint(0, 31, (2, 11))
    with torch.no_grad():
        found, merged = model.eval()(tokens).logits, plain.eval()(tokens).logits
        other = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32).eval()(tokens).logits
    assert torch.allclose(found, merged, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, other, atol=1e-2)


def test_seeds_reach_the_initialisation(start: Path) -> None:
    def first(seed: int) -> list[torch.Tensor]:
        model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
        Adapted(model, Adapter(name="lora", rank=2), seed)
        return [value for value in model.parameters() if value.requires_grad]

    one, again, other = first(1), first(1), first(2)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [
        ("pissa", ON_POLICY["grpo with mini-batches and KL"]),
        ("olora", SUPERVISED["dpo"]),
        ("lora", ON_POLICY["rejection_sft"]),
    ],
    ids=["pissa, KL to the start", "olora, dpo", "lora, rejection_sft"],
)
def test_adapters_train_with_algorithms_and_measures_read_them(
    name: str, algorithm: dict[str, Any], adapted: Any, start: Path, tmp_path: Path, command: Command
) -> None:
    recipe = adapted(name, algorithm=algorithm, adapter={"targets": None}, kl={"every": 1, "prompts": 2})
    folder = run(recipe, tmp_path, threads=1)
    assert [row["step"] for row in folder.metrics] == [1, 2]
    if name == "pissa":
        assert abs(folder.metrics[0]["kl"]) < 1e-4  # the reference is the start, not what PiSSA leaves of it
    if name == "olora":
        assert folder.metrics[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    end = folder.checkpoint(2)
    for one in (end, folder.checkpoint(2, fp32=True)):
        assert AutoModelForCausalLM.from_pretrained(one).config.tie_word_embeddings
        assert AutoTokenizer.from_pretrained(one)
        assert ends(start, one).tensors
    measured = command("spectra", f"{start}:{end}", "--rank", 2, "--by", "model", "--format", "json")
    assert measured.code == 0
    assert command("diff", f"{start}:{end}", "--format", "json").json["rows"][0]["changed"] > 0
