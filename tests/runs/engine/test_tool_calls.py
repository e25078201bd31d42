"""Tools are called within a completion, in training by TRL and in evaluation; the last message counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from scramble.errors import RunError
from scramble.runs.engine.chats import Chats
from scramble.runs.engine.evaluate import count_right
from scramble.runs.engine.run import run
from scramble.runs.recipe.recipe import Recipe
from scramble.runs.tasks import Example
from scramble.runs.tasks.tools import Tools, calculator
from tests.runs.chats import tokenizer

pytestmark = pytest.mark.train
ALGORITHMS: list[dict[str, Any]] = [
    {"name": "grpo"},
    {"name": "dapo", "resamples": 0},
    {"name": "reinforce++"},
    {"name": "rejection_sft"},
]
CALL = '<tool_call>\n{{"name": "{}", "arguments": {}}}\n</tool_call><|im_end|>'
TURNS = [
    [
        CALL.format("search", json.dumps({"query": "Ann age"})),
        CALL.format("calculator", json.dumps({"expression": "7 * 6"})),
        CALL.format("calculator", json.dumps({"expression": "__import__('os')"})),
        "Answer: 41<|im_end|>",
    ],
    [
        CALL.format("calculator", json.dumps({"expression": "7 * 6"})),
        "Answer: 42<|im_end|>",
        "I cannot.<|im_end|>",
    ],
    ["Answer: 42<|im_end|>"],
]


@pytest.fixture
def asked(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "How old is Ann, times 6?", "answer": "42"}\n' * 4)
    (tmp_path / "texts.jsonl").write_text('{"text": "Ann is seven."}\n{"text": "Bob is six."}\n')
    data, documents = str(tmp_path / "rows.jsonl"), str(tmp_path / "texts.jsonl")
    return {
        "task": {"name": "tools", "data": data, "documents": documents, "calls": 2},
        "algorithm": {"prompts": 1, "generations": 4, "max_new_tokens": 400},
        "precision": "fp32",
        "steps": 1,
    }


def start(folder: Path, template: str | None, **settings: Any) -> str:
    words = tokenizer(template)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        **settings,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda one: str(one["name"]))
def test_tools_are_called_and_the_last_message_is_scored(
    algorithm: dict[str, Any], asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model's words are scripted, everything else is TRL's own loop: four completions of one prompt."""
    import trl.chat_template_utils
    from trl import GRPOTrainer

    words = tokenizer(None)
    prompts: list[list[str]] = []

    def speak(self: Any, prompt_ids: list[list[int]], *_: Any, **__: Any) -> tuple[list[list[int]], None]:
        prompts.append([words.decode(ids) for ids in prompt_ids])
        texts = TURNS[len(prompts) - 1]
        assert len(texts) == len(prompt_ids)
        return [words.encode(text, add_special_tokens=False) for text in texts], None

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", speak)
    template = trl.chat_template_utils.qwen3_instruct_2507_chat_template
    content = asked | {"model": start(tmp_path / "start", template)}
    content["algorithm"] = content["algorithm"] | algorithm
    folder = run(Recipe.model_validate(content), tmp_path / "out", threads=1)
    (row,) = folder.metrics
    assert row["reward"] == 0.5  # the first two end with 42, the third gives up, the fourth is wrong
    assert row["tools/call_frequency"] == 1.0
    assert row["tools/failure_frequency"] == 0.25
    assert '"name": "search"' in prompts[0][0]
    assert prompts[1][0].endswith(
        "<tool_response>\nAnn is seven.\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )
    assert "<tool_response>\n42\n</tool_response>" in prompts[1][1]
    assert "not allowed here" in prompts[1][2]
    assert len(prompts[2]) == 1
    assert "<tool_response>\n42\n</tool_response>" in prompts[2][0]
    if algorithm["name"] == "rejection_sft":
        right = [(prompts[2][0], [TURNS[0][0], TURNS[1][0]]), (prompts[1][1], [TURNS[0][1]])]
        said = [own_words(tmp_path / "start", text, [*own, TURNS[2][0]]) for text, own in right]
        assert row["loss"] == pytest.approx(-torch.cat(said).mean().item(), rel=1e-4)


@pytest.mark.parametrize(
    ("length", "calls", "context", "turns"),
    [
        (400, 2, 2048, 3),
        (400, 1, 2048, 2),
        (400, 2, 1132, 2),
        (400, 2, 1133, 2),
        (100, 2, 2048, 2),
        (140, 2, 2048, 2),
        (80, 2, 2048, 1),
    ],
)
def test_evaluation_shows_the_model_what_training_does(
    length: int,
    calls: int,
    context: int,
    turns: int,
    asked: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """TRL's loop and that of evaluation, by the same script, with and without room for answers."""
    from trl import GRPOTrainer, chat_template_utils

    words = tokenizer(None)
    seen: dict[str, list[list[str]]] = {"training": [], "evaluation": []}

    def script(where: str, prompts: list[list[int]]) -> list[list[int]]:
        """What each says next; a sequence is told by the calls and answers that it holds."""
        texts = [words.decode(ids) for ids in prompts]
        seen[where].append(texts)
        turn = len(seen[where]) - 1
        if turn == 0:
            return [words.encode(text) for text in TURNS[0]]
        next_turn = {
            (1, "seven"): TURNS[1][0],
            (1, "42"): TURNS[1][1],
            (1, "not allowed"): TURNS[1][2],
            (2, "42"): TURNS[2][0],
        }
        answers = [text.rsplit("<tool_response>", 1)[1] for text in texts]
        return [
            next(words.encode(said) for (at, key), said in next_turn.items() if at == turn and key in answer)
            for answer in answers
        ]

    monkeypatch.setattr(
        GRPOTrainer, "_generate_single_turn", lambda self, ids, *_, **__: (script("training", ids), None)
    )
    template = chat_template_utils.qwen3_instruct_2507_chat_template
    content = asked | {"model": start(tmp_path / "start", template, max_position_embeddings=context)}
    content["algorithm"] = asked["algorithm"] | {"max_new_tokens": length}
    content["task"] = asked["task"] | {"calls": calls}
    scored: list[list[Any]] = []
    score = Tools.scores
    monkeypatch.setattr(Tools, "scores", lambda *args: scored.append(args[1]) or score(*args))
    recipe = Recipe.model_validate(content | {"evaluation": {"size": 1, "samples": 4, "k": [1]}})
    folder = run(Recipe.model_validate(content), tmp_path / "out", threads=1)

    def generate(self: Any, input_ids: Any, attention_mask: Any, **_: Any) -> torch.Tensor:
        """As transformers does: nothing past the length, the short ones padded."""
        prompts = [ids[mask.bool()].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True)]
        said = [torch.tensor(ids[:length]) for ids in script("evaluation", prompts)]
        padded = torch.nn.utils.rnn.pad_sequence(said, batch_first=True, padding_value=0)
        return torch.cat([input_ids, padded], dim=1)

    monkeypatch.setattr(LlamaForCausalLM, "generate", generate)
    model = LlamaForCausalLM.from_pretrained(content["model"])
    example = Example("How old is Ann, times 6?", "42")
    (right,) = count_right(model, AutoTokenizer.from_pretrained(content["model"]), recipe, [example])
    assert seen["evaluation"] == seen["training"]
    (row,) = folder.metrics
    assert right / 4 == row["score"]
    assert scored[0] == scored[1]
    assert len(seen["training"]) == turns


def test_a_thought_that_the_prompt_opens_is_no_part_of_the_answer() -> None:
    from trl import chat_template_utils

    words = tokenizer(chat_template_utils.qwen3_5_think_chat_template)
    words.add_tokens(["<think>", "</think>"])
    said = words.encode("six sevens\n</think>\n\nAnswer: 42<|im_end|>")
    chats = Chats(words, [calculator], turns=1, length=400, context=4096)
    ((message,),) = chats.complete(["6 * 7?"], lambda prompts: [said for _ in prompts])
    assert message["content"] == "Answer: 42"


def test_evaluation_of_a_task_with_tools(asked: dict[str, Any], tmp_path: Path) -> None:
    """Nothing scripted: before and after training, and from the checkpoints of a finished run the same."""
    from trl import chat_template_utils

    (tmp_path / "held_out.jsonl").write_text('{"prompt": "How old is Bob?", "answer": "6"}\n')
    content = asked | {
        "model": start(tmp_path / "start", chat_template_utils.qwen3_instruct_2507_chat_template),
        "task": asked["task"] | {"held_out_data": str(tmp_path / "held_out.jsonl")},
        "algorithm": asked["algorithm"] | {"max_new_tokens": 8},
        "fp32_steps": [1],
    }
    judged = content | {"evaluation": {"size": 1, "samples": 3, "k": [1, 3]}}
    during = run(Recipe.model_validate(judged), tmp_path / "during", threads=1)
    plain = run(Recipe.model_validate(content), tmp_path / "later", threads=1)
    later = run(Recipe.model_validate(judged), tmp_path / "later", threads=1)
    assert later.path == plain.path
    assert later.record.content()["evaluation"] == during.record.content()["evaluation"]
    assert [(row["step"], row["k"]) for row in later.record.content()["evaluation"]["rows"]] == [
        (0, 1),
        (0, 3),
        (1, 1),
        (1, 3),
    ]


@pytest.mark.parametrize("template", [None, "{% for m in messages %}{{ m.content }}{% endfor %}"])
def test_evaluation_with_a_template_without_tools_is_one_line(
    template: str | None, asked: dict[str, Any], tmp_path: Path
) -> None:
    recipe = Recipe.model_validate(asked | {"model": "x", "evaluation": {"size": 1, "samples": 1, "k": [1]}})
    path = start(tmp_path / "start", template)
    model, words = LlamaForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    with pytest.raises(RunError, match=r"^evaluation with tools: .*chat.template"):
        count_right(model, words, recipe, [Example("a", "b")])


def own_words(model: Path, before: str, own: list[str]) -> torch.Tensor:
    """Log-likelihoods of the tokens that the model said itself, the last of them after all the others."""
    words, text, at = tokenizer(None), before + own[-1], 0
    ids = torch.tensor(words.encode(text, add_special_tokens=False))
    with torch.no_grad():
        logits = LlamaForCausalLM.from_pretrained(model, dtype=torch.float32)(ids[None]).logits[0]
    found = []
    for one in own:
        at = text.index(one, at)
        first = len(words.encode(text[:at], add_special_tokens=False))
        places = range(first, first + len(words.encode(one, add_special_tokens=False)))
        found += [logits[place - 1].log_softmax(-1)[ids[place]] for place in places]
        at += len(one)
    return torch.stack(found)


@pytest.mark.parametrize("template", [None, "{% for m in messages %}{{ m.content }}{% endfor %}"])
def test_a_model_without_a_template_for_tools_is_one_line(
    template: str | None, asked: dict[str, Any], tmp_path: Path
) -> None:
    content = asked | {"model": start(tmp_path / "start", template)}
    with pytest.raises(RunError, match=r"the run failed: .*chat template"):
        run(Recipe.model_validate(content), tmp_path / "out", threads=1)
