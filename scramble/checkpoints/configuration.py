"""A configuration as transformers' config class reads it, and what of it decides the function."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from scramble.checkpoints import Checkpoint
from scramble.errors import UndecidedError, one_line

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# Settings that do not change what a causal language model computes in evaluation, by the reason. A key that
# transformers' config class does not know is kept by it, and other code may read it: it is compared.
NO_PART_IN_THE_FUNCTION: dict[str, tuple[str, ...]] = {
    "where it is from, and the dtype that the tensors have anyway": (
        *("_name_or_path", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version"),
    ),
    "dropout and layer drop, which evaluation leaves out": (
        *("activation_dropout", "attention_dropout", "attn_pdrop", "classifier_dropout", "dropout"),
        *(
            "embd_pdrop",
            "embedding_dropout",
            "hidden_dropout",
            "layerdrop",
            "resid_pdrop",
            "residual_dropout",
        ),
    ),
    "initial values and auxiliary losses": (
        *("init_std", "initializer_range", "output_router_logits", "router_aux_loss_coef"),
        "router_jitter_noise",
    ),
    "which tokens begin, end and pad a text": ("bos_token_id", "eos_token_id", "pad_token_id"),
    "what is returned and kept beside the logits, and how products are divided": (
        *("output_attentions", "output_hidden_states", "pretraining_tp", "return_dict", "use_cache"),
    ),
    "heads of other tasks": (
        *("id2label", "label2id", "problem_type", "summary_activation", "summary_first_dropout"),
        *("summary_proj_to_labels", "summary_type", "summary_use_proj"),
    ),
    "read into rope_parameters": ("partial_rotary_factor",),
    "read into layer_types": ("_sliding_window_pattern", "sliding_window_pattern"),
    "known from the tensors: a head that is stored is used, one that is not is the embedding": (
        "tie_word_embeddings",
    ),
}
_IGNORED = {key for keys in NO_PART_IN_THE_FUNCTION.values() for key in keys}


def configuration(checkpoint: Checkpoint) -> PretrainedConfig:
    """transformers' config of a checkpoint, defaults and other names of keys resolved.

    Raises:
        UndecidedError: transformers refuses the config.
    """
    from transformers import CONFIG_MAPPING

    raw = copy.deepcopy(checkpoint.config)  # the class writes into nested settings
    try:
        return CONFIG_MAPPING[raw["model_type"]].from_dict(raw)
    except Exception as error:  # whatever a config can make transformers raise: no verdict is possible
        raise UndecidedError(
            f"{checkpoint.folder}: transformers cannot build this model: {one_line(error)}"
        ) from error


def difference(base: Checkpoint, model: Checkpoint) -> str | None:
    """The first setting that makes two checkpoints compute different functions, or None.

    Raises:
        UndecidedError: transformers refuses one of the configs.
    """
    one, other = _decisive(base), _decisive(model)
    return next((key for key in sorted(one.keys() | other.keys()) if one.get(key) != other.get(key)), None)


def _decisive(checkpoint: Checkpoint) -> dict[str, Any]:
    found = {key: value for key, value in configuration(checkpoint).to_dict().items() if key not in _IGNORED}
    if isinstance(rotary := found.get("rope_parameters"), dict):
        for settings in (rotary, *rotary.values()):
            if isinstance(settings, dict) and "rope_type" in settings:
                settings.pop("type", None)  # its older name
    return found
