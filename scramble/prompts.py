"""A text file as sequences of tokens of one length."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scramble.errors import SelectionError

if TYPE_CHECKING:
    from jaxtyping import Int64

LENGTH, MOST_SEQUENCES = 32, 16
_TOKENIZERS = ("tokenizer*", "vocab*", "*.model", "tekken.json")


def read_prompts(
    folder: Path, prompts: Path, length: int = LENGTH, most: int = MOST_SEQUENCES
) -> Int64[np.ndarray, "sequences time"]:
    """The first tokens of a text, cut into at most `most` sequences of `length` (of one, if it is shorter).

    Args:
        folder: the checkpoint whose tokenizer is used.

    Raises:
        SelectionError: the file cannot be read or has fewer than two tokens, or there is no tokenizer.
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
    length = min(length, len(found))
    if length < 2:
        raise SelectionError(f"{prompts}: fewer than two tokens")
    count = min(len(found) // length, most)
    return np.array(found[: count * length], dtype=np.int64).reshape(count, length)
