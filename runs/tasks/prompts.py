"""Prompts as tokens, the same wherever a model sees them: in training, in evaluation, for the divergence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from scramble.errors import RunError
from scramble.runs.tasks import Message


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | list[Message],
    tools: Sequence[Callable[..., Any]] = (),
) -> list[int]:
    """Tokens of a text; of messages, by the chat template, up to where the model may speak.

    As TRL's trainers tokenize prompts.

    Raises:
        RunError: messages, and the tokenizer has no chat template, or it refuses them.
    """
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    if not tokenizer.chat_template:
        raise RunError(
            "prompts are messages, and the tokenizer of the start has no chat template to show them by"
        )
    import jinja2

    try:
        return list(
            tokenizer.apply_chat_template(
                prompt,
                tools=list(tools) or None,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
            )
        )
    except jinja2.TemplateError as error:
        raise RunError(f"the chat template of the start cannot show the prompt {prompt}: {error}") from None
