"""What TRL does not promise to keep, and what it is needed for.

- `chat_template_utils`: evaluation with tools shows a model the same tokens as TRL's loop in training.
- methods of trainers, see `METHODS`.
- `generation_config` of trainers that sample by transformers: every setting is the recipe's or neutral.
- `_metrics["train"]` of `GRPOTrainer`: lists by name, whose means TRL writes into the step's row.
- `_step` and `_total_train_tokens`: counters that go on from step to step, which a resumed run must restore.
- `vllm_generation` of a trainer that samples by vLLM: its engine `llm`, and `sync_weights`, which copies the
  weights that `_iter_named_params` gives into it.

Importing this imports TRL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from transformers import GenerationConfig, Trainer
from trl.chat_template_utils import (
    add_response_schema,
    get_training_chat_template,
    is_chat_template_prefix_preserving,
    parse_response,
    supports_tool_calling,
)

from scramble.internals.method import Method

__all__ = [
    "COUNTERS",
    "METHODS",
    "add_response_schema",
    "copy_from",
    "engine",
    "get_training_chat_template",
    "is_chat_template_prefix_preserving",
    "measure",
    "parse_response",
    "sample_by",
    "supports_tool_calling",
    "sync_weights",
]

COUNTERS = ("_step", "_total_train_tokens")
"""Those of TRL's trainers; each has some of them."""

_GRPO, _CPO = "trl.GRPOTrainer", "trl.experimental.cpo.CPOTrainer"
METHODS = (
    Method(
        _GRPO,
        "_generate_and_score_completions",
        ("inputs",),
        True,
        "prompts of groups without spread are replaced before, advantages of other kinds are set after",
    ),
    Method(
        _GRPO,
        "_calculate_rewards",
        ("inputs", "prompts", "completions", "completion_ids_list"),
        True,
        "rewards are kept for the advantages",
    ),
    Method(
        _GRPO,
        "_generate_single_turn",
        ("prompt_ids", "images", "multimodal_fields", "num_generations"),
        True,
        "completions that dynamic sampling has kept are given in place of new ones",
    ),
    Method(_GRPO, "_tokenize_prompts", ("prompts",), False, "dynamic sampling shows prompts as TRL does"),
    Method(
        _GRPO,
        "_compute_loss",
        ("model", "inputs"),
        True,
        "rejection sampling has a loss of its own",
    ),
    Method(
        _GRPO,
        "_get_per_token_logps_and_entropies",
        ("model", "input_ids", "attention_mask", "logits_to_keep", "batch_size", "compute_entropy"),
        False,
        "log-likelihoods at the sampling temperature, in the precision of training",
    ),
    Method(_CPO, "tokenize_row", ("feature", "model"), True, "special tokens as in other trainers"),
    Method(
        _CPO,
        "compute_loss",
        ("model", "inputs", "return_outputs", "num_items_in_batch"),
        True,
        "tokens are counted",
    ),
    Method(_CPO, "log", ("logs", "start_time"), True, "the count is a metric"),
)
"""Methods that the trainers of `scramble.runs.trainers` override or call."""


def measure(trainer: Trainer, name: str, value: float) -> None:
    """Add a value to a metric of the step that a GRPO trainer is in."""
    trainer._metrics["train"][name].append(value)


def sample_by(trainer: Trainer, settings: GenerationConfig) -> None:
    """Make a trainer sample by these settings of `generate`, and not by those that it made."""
    trainer.generation_config = settings


def engine(trainer: Trainer) -> Any:
    """vLLM's engine, where a trainer samples by one in the same process."""
    return trainer.vllm_generation.llm


def sync_weights(trainer: Trainer) -> None:
    """Copy the weights into the engine, as TRL does before it samples after a step."""
    trainer.vllm_generation.sync_weights()


def copy_from(trainer: Trainer, weights: Callable[[], Iterable[tuple[str, Any]]]) -> None:
    """Make `sync_weights` copy these, by the names of a checkpoint, and not those that the model holds."""
    trainer.vllm_generation._iter_named_params = weights
