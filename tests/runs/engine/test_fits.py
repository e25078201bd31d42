"""What a start cannot read is refused before training, by its row and lengths; padding is a token it has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from scramble.errors import RunError
from scramble.runs.engine.run import run
from scramble.runs.recipe.recipe import Recipe
from tests.conftest import Command
from tests.models import Tiny, edit_config, weights, with_tokenizer
from tests.runs.conftest import ON_POLICY, SUPERVISED

pytestmark = pytest.mark.train
ALGORITHMS = {name: ON_POLICY[name] for name in ("grpo", "rloo", "rejection_sft")} | SUPERVISED
SECTIONS: dict[str, dict[str, Any]] = {
    "prompts of the evaluation": {"evaluation": {"size": 4, "samples": 1, "k": [1], "max_new_tokens": 40}},
    "prompts of kl": {"kl": {"every": 1, "prompts": 3, "max_new_tokens": 40}},
}


def nothing_was_trained(out: Path) -> bool:
    return not list(out.glob("*/checkpoints")) and not list(out.glob("*/metrics.jsonl"))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_prompt_that_is_too_long_is_refused_by_its_row(
    name: str, content: dict[str, Any], start: Path, tmp_path: Path
) -> None:
    """A context that just holds the longest is enough, one of a token less is not."""
    tokenizer = AutoTokenizer.from_pretrained(start)
    own = content | {"algorithm": ALGORITHMS[name]}
    recipe = Recipe.model_validate(own)
    examples = recipe.task.checked_examples()
    rows = recipe.algorithm.rows(recipe.task, examples)
    prompts = [len(tokenizer(row["prompt"])["input_ids"]) for row in rows]
    texts = [
        len(tokenizer(row["prompt"] + row.get(side, ""))["input_ids"])
        for row in rows
        for side in ("completion", "chosen", "rejected", "answer")
        if side in row
    ]
    need = max(prompts) + 6 if recipe.algorithm.samples else max(texts) + 1
    edit_config(start, max_position_embeddings=need)
    run(recipe, tmp_path / "fits", threads=1)
    edit_config(start, max_position_embeddings=need - 1)
    with pytest.raises(
        RunError, match=rf"row \d+ has \d+ tokens and \d+ new ones, .* context has {need - 1}"
    ):
        run(recipe, tmp_path / "out", threads=1)
    assert nothing_was_trained(tmp_path / "out")


@pytest.mark.parametrize("what", SECTIONS)
def test_so_are_prompts_of_evaluation_and_kl(
    what: str, content: dict[str, Any], start: Path, tmp_path: Path
) -> None:
    edit_config(start, max_position_embeddings=40)
    own = content | {"algorithm": SUPERVISED["sft"]}
    run(Recipe.model_validate(own), tmp_path / "fits", threads=1)
    with pytest.raises(RunError, match=rf"{what}: row 1 has \d+ tokens and 40 new ones, .* context has 40"):
        run(Recipe.model_validate(own | SECTIONS[what]), tmp_path / "out", threads=1)
    assert nothing_was_trained(tmp_path / "out")
    if "evaluation" in SECTIONS[what]:  # of the finished run too
        with pytest.raises(RunError, match=what):
            run(Recipe.model_validate(own | SECTIONS[what]), tmp_path / "fits", threads=1)


def with_pad(start: Path, own: bool) -> int:
    """Add tokens to the tokenizer, not to the model, as chats do; one of them pads, or the end of text."""
    tokenizer = AutoTokenizer.from_pretrained(start)
    known = int(weights(start)["model.embed_tokens.weight"].shape[0])
    tokenizer.add_tokens(["<" + "x" * (n + 1) + ">" for n in range(known)])
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(known + 3) if own else tokenizer.eos_token
    tokenizer.save_pretrained(start)
    assert AutoTokenizer.from_pretrained(start).pad_token_id == (known + 3 if own else 1)
    return known


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_pad_token_without_an_embedding_gives_way_to_the_end_of_text(
    name: str, content: dict[str, Any], tmp_path: Path
) -> None:
    """The run is the one of a start whose pad token is the end of text, and the tokenizer stays as it is."""
    model = Tiny("llama", 3, 2, 8, layers=2, tied=True, seed=1)
    content |= {"algorithm": ALGORITHMS[name], "evaluation": {"size": 4, "samples": 2, "k": [1]}}
    content["evaluation"]["max_new_tokens"] = 5
    found = []
    for own in (False, True):
        start = with_tokenizer(model.save(tmp_path / f"start-{own}", torch.bfloat16))
        with_pad(start, own)
        folder = run(Recipe.model_validate(content | {"model": str(start)}), tmp_path / str(own), threads=1)
        found.append((weights(folder.checkpoint(2, fp32=True)), folder.record.content()["evaluation"]))
        for file in ("tokenizer.json", "tokenizer_config.json"):
            assert (folder.checkpoint(2) / file).read_bytes() == (start / file).read_bytes()
    assert all(torch.equal(found[0][0][key], found[1][0][key]) for key in found[0][0])
    assert found[0][1] == found[1][1]


def test_tokens_without_an_embedding_are_refused(
    content: dict[str, Any], start: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(start)
    known = weights(start)["model.embed_tokens.weight"].shape[0]
    tokenizer.add_tokens([f"[{n}]" for n in range(known)] + ["0+0="])
    tokenizer.save_pretrained(start)
    with pytest.raises(RunError, match=rf"row \d+ holds token \d+ .* the model has {known} embeddings"):
        run(Recipe.model_validate(content), tmp_path / "out", threads=1)
    assert nothing_was_trained(tmp_path / "out")


COMMANDS: dict[str, Callable[[Path, Path, Path], list[object]]] = {
    "gates": lambda start, end, text: ["gates", f"{start}:{end}", "--prompts", text],
    "curvature": lambda start, end, text: ["curvature", f"{start}:{end}", "--prompts", text],
    "verify": lambda start, end, text: ["verify", start, end, "--prompts", text],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_text_is_cut_to_the_context_or_refused(
    name: str, start: Path, tmp_path: Path, command: Command
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("1+1=2\n" * 40)
    assert command(*COMMANDS[name](start, start, text)).err.count("context") == 0
    edit_config(start, max_position_embeddings=8)
    asked = [*COMMANDS[name](start, start, text), *(["--length", 9] if name != "verify" else [])]
    if name == "verify":
        assert command(*asked).code == 0
    else:
        found = command(*asked)
        assert (found.code, found.err.count("\n")) == (2, 1)
        assert "sequences of 9 tokens" in found.err
        assert "context has 8" in found.err
    edit_config(start, max_position_embeddings=64)
    tokenizer = AutoTokenizer.from_pretrained(start)
    tokenizer.add_tokens([f"[{n}]" for n in range(40)] + ["1+1"])
    tokenizer.save_pretrained(start)
    found = command(*COMMANDS[name](start, start, text))
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert "has no embedding" in found.err
