"""TRL's CPOTrainer, its prompts tokenized as the other trainers tokenize them."""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor

from scramble.runs.internals.trl_experimental import CPOTrainer

NO_LIMIT = sys.maxsize
"""For `max_length`, whose None means 512 there."""


class SimPoTrainer(CPOTrainer):
    """Without the BOS token that CPOTrainer sets before prompts even if the tokenizer has none there.

    Of chats also without the EOS token that it sets after what the chat template ends with.

    Counts tokens too (`num_tokens`), as the other trainers do.

    Args:
        chats: prompts and completions are messages.
    """

    _tokens = 0

    def __init__(self, *args: Any, chats: bool, **kwargs: Any) -> None:
        self.chats = chats
        super().__init__(*args, **kwargs)

    def tokenize_row(self, feature: dict[str, str], model: Any = None) -> dict[str, list[int]]:
        row = super().tokenize_row(feature, model)
        bos = self.processing_class.bos_token_id
        if bos is not None and self._ids(feature["prompt"])[:1] != [bos]:
            row = {key: values[1:] if row[_ids(key)][:1] == [bos] else values for key, values in row.items()}
        if self.chats:
            for which in ("chosen", "rejected"):
                if self._ids(feature[which])[-1:] != [self.processing_class.eos_token_id]:
                    row |= {key: values[:-1] for key, values in row.items() if key.startswith(which)}
        return row

    def _ids(self, text: str) -> list[int]:
        """A chat was rendered by the template, which says all special tokens itself."""
        return list(self.processing_class(text, add_special_tokens=not self.chats)["input_ids"])

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        for which in ("chosen", "rejected"):
            self._tokens += int(inputs[f"{which}_attention_mask"].sum())
        return super().compute_loss(model, inputs, *args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs | {"num_tokens": self._tokens}, start_time)


def _ids(key: str) -> str:
    """`chosen_labels` -> `chosen_input_ids`."""
    return next(f"{which}_input_ids" for which in ("chosen", "rejected", "prompt") if key.startswith(which))
