"""What TRL says of chats, and what PEFT says of adapters, does what is relied on."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaForCausalLM
from trl import chat_template_utils

from scramble.runs.internals import peft, trl
from scramble.runs.tasks.tools import calculator
from tests.models import Tiny
from tests.runs.chats import tokenizer

CALL = '<tool_call>\n{"name": "calculator", "arguments": {"expression": "6 * 7"}}\n</tool_call><|im_end|>'


def test_calls_of_tools_are_read_from_what_a_model_says() -> None:
    words = tokenizer(chat_template_utils.qwen3_instruct_2507_chat_template)
    assert trl.supports_tool_calling(words)
    words = trl.add_response_schema(words)
    said = words.encode(CALL, add_special_tokens=False)
    before = words.encode("<|im_start|>assistant\n", add_special_tokens=False)
    message = trl.parse_response(words, said, prefix=before, tools=[calculator])
    (call,) = message["tool_calls"]
    assert message["role"] == "assistant"
    assert call["function"]["name"] == "calculator"
    assert call["function"]["arguments"] == {"expression": "6 * 7"}


def test_a_template_that_shows_no_tools_is_told_from_one_that_does() -> None:
    plain = tokenizer("{% for one in messages %}{{ one['content'] }}{% endfor %}")
    assert not trl.supports_tool_calling(plain)


def test_a_template_that_changes_what_was_said_gets_one_that_does_not() -> None:
    words = tokenizer(chat_template_utils.qwen3_chat_template)
    assert not trl.is_chat_template_prefix_preserving(words)
    words.chat_template = trl.get_training_chat_template(words)
    assert trl.is_chat_template_prefix_preserving(words)


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"init_lora_weights": "pissa"}], ids=str)
def test_names_beside_adapters_are_those_of_the_model_without(options: dict[str, object]) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    model = Tiny("llama", 2, 2, 8, layers=2).build().float()
    assert isinstance(model, LlamaForCausalLM)
    names, linear = set(model.state_dict()), {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = LoraConfig(r=2, target_modules="all-linear", **options)
    model = inject_adapter_in_model(config, model)
    found = {peft.name_without_adapter(name) for name in model.state_dict()}
    assert found - {None} == names
    beside = [name for name, _ in model.named_parameters() if peft.is_beside_an_adapter(name)]
    assert {name.split(".")[-3] for name in beside} == linear | {"down_proj"}
    layers = [one for one in model.modules() if isinstance(one, peft.LoraLayer)]
    assert len(layers) == len(beside) == 2 * 7
    name, layer = next((name, one) for name, one in model.named_modules() if isinstance(one, peft.LoraLayer))
    base, inputs = layer.get_base_layer(), torch.randn(3, layer.in_features)
    apart = layer(inputs)
    layer.merge()
    assert torch.allclose(base(inputs), apart, atol=1e-5)
    assert torch.allclose(base.weight, before[f"{name}.weight"], atol=1e-5)  # before it is trained
    layer.unmerge()
    assert torch.allclose(layer(inputs), apart, atol=1e-5)
