"""TRL calls the tools of a task in the middle of a completion, and the last message is what counts."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from runs.recipe import Recipe
from runs.run import run
from scramble.errors import RunError

pytestmark = pytest.mark.filterwarnings("ignore")
SPECIAL = ["<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
ALGORITHMS: list[dict[str, Any]] = [
    {"name": "grpo"},
    {"name": "dapo", "resamples": 0},
    {"name": "reinforce++"},
    {"name": "rejection_sft"},
]
CALL = '<tool_call>\n{{"name": "{}", "arguments": {}}}\n</tool_call><|im_end|>'


def tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    """One token a character, and Qwen's for the turns and the calls of tools."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = ["<pad>", *SPECIAL, *string.printable]
    made = Tokenizer(models.WordLevel({c: i for i, c in enumerate(vocabulary)}, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made.decoder = decoders.Fuse()
    found = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<|im_end|>", unk_token="<pad>"
    )
    found.add_tokens([token for token in SPECIAL if token != "<|im_end|>"])
    found.chat_template = template
    return found


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


def start(folder: Path, template: str | None) -> str:
    words = tokenizer(template)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
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
    turns = [
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
    prompts: list[list[str]] = []

    def speak(self: Any, prompt_ids: list[list[int]], *_: Any, **__: Any) -> tuple[list[list[int]], None]:
        prompts.append([words.decode(ids) for ids in prompt_ids])
        texts = turns[len(prompts) - 1]
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
        right = [(prompts[2][0], [turns[0][0], turns[1][0]]), (prompts[1][1], [turns[0][1]])]
        said = [own_words(tmp_path / "start", text, [*own, turns[2][0]]) for text, own in right]
        assert row["loss"] == pytest.approx(-torch.cat(said).mean().item(), rel=1e-4)


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
