"""Adapters move what they should, and what is written is a plain checkpoint in the start's frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from scramble.errors import RunError
from scramble.measures.pairs.ends import ends
from scramble.runs.engine.run import run
from scramble.runs.recipe.adapters import Adapted, Adapter
from scramble.runs.recipe.recipe import Recipe
from tests.conftest import Command
from tests.models import Tiny, weights, with_tokenizer
from tests.runs.conftest import ON_POLICY, SUPERVISED

pytestmark = pytest.mark.train
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
    assert folder.record.content()["end"] == again.record.content()["end"]
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
    record = folder.record.content()
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


@pytest.fixture
def untied(tmp_path: Path) -> Path:
    model = Tiny("llama", 3, 2, 8, layers=2, tied=False, seed=2)
    return with_tokenizer(model.save(tmp_path / "untied", torch.bfloat16))


@pytest.mark.parametrize("targets", [["embed_tokens"], ["embed_tokens", "q_proj"]])
@pytest.mark.parametrize("name", NAMES)
def test_an_end_computes_what_was_trained(
    name: str,
    targets: list[str],
    adapted: Any,
    untied: Path,
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Logits of the checkpoint are those of the model with its adapter when the checkpoint was written."""
    from scramble.runs.engine import recorder

    tokens, trained = torch.randint(0, 18, (2, 11)), []
    save = recorder.save

    def watched(model: Any, *arguments: Any) -> None:
        with torch.no_grad():
            trained.append(type(model).forward(model, tokens).logits)
        save(model, *arguments)

    monkeypatch.setattr(recorder, "save", watched)
    recipe = adapted(name, model=str(untied), adapter={"targets": targets})
    folder = run(recipe, tmp_path / "out", threads=1)
    end = folder.checkpoint(2, fp32=True)
    with torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(end).eval()(tokens).logits
        before = AutoModelForCausalLM.from_pretrained(untied, dtype=torch.float32).eval()(tokens).logits
    assert torch.allclose(found, trained[-1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, before, atol=1e-3)
    rows = command("diff", f"{untied}:{end}", "--by", "tensor", "--format", "json").json["rows"]
    moved = {row["tensor"].split(".")[-2] for row in rows if row["tensor"] and row["changed"]}
    assert moved == set(targets)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("name", NAMES)
def test_an_adapter_that_would_untie_a_tied_pair_is_refused(
    name: str, family: str, content: dict[str, Any], tmp_path: Path
) -> None:
    group = 1 if family == "gpt2" else 2
    start = with_tokenizer(Tiny(family, 3, group, 8, layers=2, tied=True, seed=1).save(tmp_path / "tied"))
    embedding = "wte" if family == "gpt2" else "embed_tokens"
    for target, why in (("lm_head", "is the output head"), (embedding, "are tied")):
        own = content | {"model": str(start), "adapter": {"name": name, "rank": 2, "targets": [target]}}
        with pytest.raises(RunError, match=rf"adapter\.targets: '{target}'.*{why}"):
            run(Recipe.model_validate(own), tmp_path / target, threads=1)


@pytest.mark.parametrize("algorithm", [SUPERVISED["sft"], SUPERVISED["simpo"], ON_POLICY["grpo"]])
def test_an_adapter_on_the_head_which_no_loss_would_see_is_refused(
    algorithm: dict[str, Any], adapted: Any, untied: Path, tmp_path: Path
) -> None:
    """TRL multiplies by the head's weight: with other targets beside it, it stayed where it was, silently."""
    recipe = adapted(
        "lora", model=str(untied), algorithm=algorithm, adapter={"targets": ["q_proj", "lm_head"]}
    )
    with pytest.raises(RunError, match=r"adapter\.targets: 'lm_head' is the output head"):
        run(recipe, tmp_path / "out", threads=1)


def test_a_target_is_a_module_of_the_model_or_refused(
    content: dict[str, Any], start: Path, tmp_path: Path
) -> None:
    for target in ("nope", "model", "proj", "layers.7.self_attn.q_proj"):
        own = content | {"adapter": {"name": "lora", "rank": 2, "targets": ["q_proj", target]}}
        with pytest.raises(RunError, match=f"adapter.targets: no module '{target}'"):
            run(Recipe.model_validate(own), tmp_path / target, threads=1)
    one = {"name": "lora", "rank": 2, "targets": ["layers.1.self_attn.q_proj"]}
    sft = {"algorithm": {"name": "sft", "batch": 8}, "adapter": one}
    folder = run(Recipe.model_validate(content | sft), tmp_path / "one", threads=1)
    old, new = weights(start), weights(folder.checkpoint(2, fp32=True))
    moved = [name for name in old if not torch.equal(old[name].float(), new[name])]
    assert moved == ["model.layers.1.self_attn.q_proj.weight"]
