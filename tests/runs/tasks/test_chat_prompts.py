"""Prompts that are messages: the same tokens in training, in evaluation and for the divergence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM, LlamaModel

from scramble.errors import RunError
from scramble.runs.engine.run import run
from scramble.runs.recipe.recipe import Recipe
from tests.runs.conftest import ON_POLICY

pytestmark = pytest.mark.train
# Turns begin with `+` for the user, `-` for the system, `A:` for the model.
TEMPLATE = (
    "{% for m in messages %}{{ {'user': '+', 'system': '-', 'assistant': 'A:'}[m.role] }}{{ m.content }}"
    "<eos>\n{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
)


def chat(number: int) -> list[dict[str, str]]:
    return [{"role": "system", "content": "1=1"}, {"role": "user", "content": f"{number}+0="}]


def rendered(number: int) -> str:
    return f"-1=1<eos>\n+{number}+0=<eos>\nA:"


@pytest.fixture
def chats(content: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A recipe whose prompts are messages, and a start with a chat template."""
    words = AutoTokenizer.from_pretrained(content["model"])
    words.chat_template = TEMPLATE
    words.save_pretrained(content["model"])
    for name, numbers in (("rows", range(8)), ("others", range(8, 10))):
        rows = [{"prompt": chat(number), "answer": str(number)} for number in numbers]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "name": "jsonl",
        "data": str(tmp_path / "rows.jsonl"),
        "held_out_data": str(tmp_path / "others.jsonl"),
        "answer_pattern": r"\D*(\d)",
    }
    return content | {"task": task, "steps": 1, "fp32_steps": []}


@pytest.mark.parametrize("name", ON_POLICY)
def test_training_evaluation_and_divergence_see_the_template(
    name: str, chats: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words, seen = AutoTokenizer.from_pretrained(chats["model"]), list[str]()
    generate = LlamaForCausalLM.generate

    def recorded(self: Any, input_ids: Any = None, attention_mask: Any = None, **others: Any) -> Any:
        for ids, mask in zip(input_ids, attention_mask, strict=True):
            seen.append(words.decode(ids[mask.bool()]))
        return generate(self, input_ids=input_ids, attention_mask=attention_mask, **others)

    monkeypatch.setattr(LlamaForCausalLM, "generate", recorded)
    settings = {
        "algorithm": ON_POLICY[name],
        "kl": {"every": 1, "prompts": 8},
        "evaluation": {"size": 2, "samples": 2, "k": [1]},
    }
    folder = run(Recipe.model_validate(chats | settings), tmp_path / "out", threads=1)
    divergence, evaluated, trained = seen[:8], seen[8:12], seen[12:-4]
    assert divergence == [rendered(number) for number in range(8)]
    assert set(evaluated) == set(seen[-4:]) == {rendered(8), rendered(9)}
    assert len(trained) >= 16
    assert set(trained) <= set(divergence)
    assert folder.record.content()["data"]["examples"] == 8
    assert 0 <= folder.metrics[0]["score"] <= 1


@pytest.mark.parametrize("name", ["sft", "dpo", "simpo"])
@pytest.mark.parametrize("bos", [None, "A"])
def test_answers_are_the_models_turns(
    name: str, bos: str | None, chats: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whether or not the tokenizer knows a token for beginnings, which the template does not say."""
    words = AutoTokenizer.from_pretrained(chats["model"])
    words.bos_token = bos
    words.save_pretrained(chats["model"])
    seen, forward = list[str](), LlamaModel.forward

    def recorded(self: Any, input_ids: Any = None, attention_mask: Any = None, **others: Any) -> Any:
        for ids, mask in zip(input_ids, attention_mask, strict=True):
            seen.append(words.decode(ids[mask.bool()]))
        return forward(self, input_ids=input_ids, attention_mask=attention_mask, **others)

    monkeypatch.setattr(LlamaModel, "forward", recorded)
    recipe = Recipe.model_validate(chats | {"algorithm": {"name": name, "batch": 8}})
    run(recipe, tmp_path / "out", threads=1)
    right = {f"{rendered(number)}{number}<eos>\n" for number in range(8)}
    assert right <= set(seen)
    wrong = set(seen) - right
    assert len(wrong) == (0 if name == "sft" else 8)
    for text in wrong:
        prompt, said = text[: len(rendered(0))], text[len(rendered(0)) :]
        assert prompt in {rendered(number) for number in range(8)}
        assert said.endswith("<eos>\n")
        assert len(said) == len("0<eos>\n")


def test_pairs_of_chats_are_trained_on(chats: dict[str, Any], tmp_path: Path) -> None:
    rows = [
        {
            "prompt": chat(number),
            "chosen": [{"role": "assistant", "content": str(number)}],
            "rejected": [{"role": "assistant", "content": "-"}],
        }
        for number in range(8)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"name": "preference", "data": str(tmp_path / "pairs.jsonl")}
    recipe = Recipe.model_validate(
        chats | {"task": task, "algorithm": {"name": "dpo", "batch": 8}, "steps": 2, "save_steps": []}
    )
    assert recipe.algorithm.rows(recipe.task, recipe.task.checked_examples()) == rows
    first, last = run(recipe, tmp_path / "out", threads=1).metrics
    assert last["loss"] < first["loss"]


def test_what_the_chats_say_is_in_the_hash_of_the_data(chats: dict[str, Any], tmp_path: Path) -> None:
    def digest(rows: list[dict[str, Any]], out: str) -> str:
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        sft = chats | {"algorithm": {"name": "sft", "batch": 2}}
        return str(run(Recipe.model_validate(sft), tmp_path / out, threads=1).record.data.hash)

    rows = [{"prompt": chat(number), "answer": "1"} for number in range(2)]
    same = digest(rows, "a")
    assert same == digest(rows, "b")
    rows[1]["prompt"] = [{"role": "user", "content": "1=1"}, {"role": "system", "content": "1+0="}]
    assert digest(rows, "c") != same


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "no chat template"),
        ("{{ raise_exception('no system') }}", "cannot show the prompt .*no system"),
    ],
)
def test_messages_need_a_template(
    template: str | None, message: str, chats: dict[str, Any], tmp_path: Path
) -> None:
    words = AutoTokenizer.from_pretrained(chats["model"])
    words.chat_template = template
    for path in Path(chats["model"]).glob("*.jinja"):
        path.unlink()
    words.save_pretrained(chats["model"])
    with pytest.raises(RunError, match=message):
        run(Recipe.model_validate(chats), tmp_path / "out", threads=1)


def test_the_divergence_of_a_task_with_tools(chats: dict[str, Any], tmp_path: Path) -> None:
    """Its prompts are messages too."""
    from scramble.runs.tasks.prompts import prompt_ids
    from scramble.runs.tasks.tools import Tools

    task = Tools(name="tools", data=str(tmp_path / "rows.jsonl"))
    words = AutoTokenizer.from_pretrained(chats["model"])
    words.chat_template = "{{ tools | length }}" + TEMPLATE
    (first, *_) = task.examples()
    ids = prompt_ids(words, task.row(first)["prompt"], task.tools)
    assert words.decode(ids) == "1" + rendered(0)
    assert torch.tensor(ids).dtype == torch.int64
