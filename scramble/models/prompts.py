"""A text file as sequences of tokens of one length."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from einops import rearrange

from scramble.errors import SelectionError

if TYPE_CHECKING:
    from jaxtyping import Int64

LENGTH, MOST_SEQUENCES = 32, 16
_TOKENIZERS = ("tokenizer*", "vocab*", "*.model", "tekken.json")


def read_prompts(
    folder: Path, prompts: Path, length: int | None = None, most: int = MOST_SEQUENCES
) -> Int64[np.ndarray, "sequences time"]:
    """The first tokens of a text, cut into at most `most` sequences of `length` (of one, if it is shorter).

    Args:
        folder: the checkpoint whose tokenizer is used.
        length: 32 by default, or the model's context if that is shorter.

    Raises:
        SelectionError: the file cannot be read or has fewer than two tokens, there is no tokenizer, sequences
            are longer than the model's context, or a token has no embedding.
    """
    from transformers import AutoTokenizer

    try:
        text = prompts.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SelectionError(f"{prompts}: cannot be read as text ({error})") from None
    # Without its files transformers makes up an empty tokenizer for some families.
    if not any(path for pattern in _TOKENIZERS for path in folder.glob(pattern)):
        raise SelectionError(f"{folder}: no tokenizer for --prompts")
    try:
        found = AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    except Exception as error:  # whatever a tokenizer's files can make transformers raise
        raise SelectionError(f"{folder}: no tokenizer for --prompts ({error})") from None
    context, known = _limits(folder)
    length = min(LENGTH, context) if length is None else length
    if length > context:
        raise SelectionError(
            f"{folder}: sequences of {length} tokens are asked for, the model's context has {context}: "
            f"give --length {context} or less"
        )
    length = min(length, len(found))
    if length < 2:
        raise SelectionError(f"{prompts}: fewer than two tokens")
    count = min(len(found) // length, most)
    tokens = rearrange(
        np.array(found[: count * length], dtype=np.int64), "(sequence token) -> sequence token", token=length
    )
    if tokens.max() >= known:
        raise SelectionError(
            f"{prompts}: token {tokens.max()} of the tokenizer in {folder} has no embedding, the model has "
            f"{known}: its tokenizer is another model's, or added tokens were never trained"
        )
    return tokens


def _limits(folder: Path) -> tuple[int, int]:
    """Tokens that a text may have, and tokens that have an embedding, as transformers reads the config."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder).get_text_config()
    except Exception as error:  # whatever a config can make transformers raise
        raise SelectionError(f"{folder}: transformers cannot read config.json ({error})") from None
    return getattr(config, "max_position_embeddings", None) or sys.maxsize, int(config.vocab_size)
