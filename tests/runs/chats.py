"""Tokenizers for tests with chats and tools."""

from __future__ import annotations

import string

from transformers import PreTrainedTokenizerFast

SPECIAL = ["<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]


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
