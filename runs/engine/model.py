"""The model that a run starts from, as training and evaluation hold it, and whether its data fits into it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from scramble.errors import RunError
from scramble.runs.engine.sampling import neutralize


def load(start: Path, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The start in float32 where it will be trained, and its tokenizer with a padding token.

    Raises:
        RunError: no token of the tokenizer can serve as padding.
    """
    tokenizer = AutoTokenizer.from_pretrained(start)
    torch.manual_seed(seed)
    model = load_model(start).to("cuda" if torch.cuda.is_available() else "cpu")
    _pad(tokenizer, rows(model), start)
    return model, tokenizer


def load_model(folder: Path) -> PreTrainedModel:
    """A checkpoint in float32, without its settings of sampling."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    neutralize(model)
    return model


def rows(model: PreTrainedModel) -> int:
    """Tokens that have an embedding."""
    return int(model.get_input_embeddings().weight.shape[0])


def context(model: PreTrainedModel) -> int | None:
    """Tokens of a text that the model's positions are made for; None if its config does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def check_fits(model: PreTrainedModel, texts: Sequence[Sequence[int]], further: int, what: str) -> None:
    """Whether every text and so many tokens after it have embeddings and positions.

    Args:
        texts: tokens; the number of a row counts from 1.
        what: they are, for the message.

    Raises:
        RunError: the first that does not fit, by its row.
    """
    limit, known = context(model), rows(model)
    for row, ids in enumerate(texts, 1):
        if limit is not None and len(ids) + further > limit:
            asked = f" and {further} new ones" if further else ""
            raise RunError(
                f"{what}: row {row} has {len(ids)} tokens{asked}, the model's context has {limit}: "
                "shorten or leave out the row, or ask for fewer new tokens"
            )
        if ids and max(ids) >= known:
            raise RunError(
                f"{what}: row {row} holds token {max(ids)} of the tokenizer, but the model has {known} "
                "embeddings: the tokenizer is another model's, or its added tokens were never trained"
            )


def _pad(tokenizer: PreTrainedTokenizerBase, known: int, start: Path) -> None:
    """A padding token with an embedding: the tokenizer's own, else the token that ends a text.

    Padding is masked, so which token it is changes nothing.
    """
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id < known:
        return
    if tokenizer.eos_token_id is None or tokenizer.eos_token_id >= known:
        raise RunError(
            f"{start}: no token to pad with: the tokenizer's pad token is {tokenizer.pad_token_id}, its end "
            f"of text {tokenizer.eos_token_id}, and the model has {known} embeddings"
        )
    tokenizer.pad_token = tokenizer.eos_token
