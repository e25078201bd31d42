"""What transformers does not promise to keep, and what it is needed for.

- `initialization.no_init_weights` and `PreTrainedModel._from_config`: a model of a given class, without
  drawing weights that are thrown away.
- `conversion_mapping.get_model_conversion_mapping`, `core_model_loading.convert_and_load_state_dict_in_model`
  and `modeling_utils.LoadStateDictConfig`: stored tensors become parameters of one layer as they do in
  `from_pretrained`, which loads whole models (experts that are stored one by one are merged there).
- `pytorch_utils.Conv1D`: the linear map of GPT-2, whose weight is a matrix like that of `torch.nn.Linear`.
- modules called `experts`, given states, experts of each token and their weights: which experts are reached.
- `hf_quantizer`, `is_quantized` and `config.quantization_config`: `save_pretrained` refuses a model that was
  read from GGUF until it is no longer held for a quantised one.
- `callback_handler.callbacks` of a `Trainer`: in which order it calls them.
- three methods of `Trainer` that read a resumed run's state from pickles, see `RESUMED`.

Importing this imports transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.initialization import no_init_weights
from transformers.modeling_utils import LoadStateDictConfig
from transformers.pytorch_utils import Conv1D

from scramble.internals.method import Method

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, Trainer, TrainerCallback

__all__ = [
    "EXPERTS",
    "RESUMED",
    "Conv1D",
    "called",
    "convert",
    "get_model_conversion_mapping",
    "reached",
    "resume_by",
    "unquantized",
    "without_weights",
]

EXPERTS = "experts"
"""What the module of a layer's routed experts is called, whatever its tensors are called in a checkpoint."""

_TRAINER = "transformers.Trainer"
RESUMED = {
    "weights": Method(
        _TRAINER,
        "_load_from_checkpoint",
        ("resume_from_checkpoint", "model"),
        True,
        "reads the weights of a state",
    ),
    "optimizer": Method(
        _TRAINER,
        "_load_optimizer_and_scheduler",
        ("checkpoint",),
        True,
        "reads the optimizer's state and that of the schedule",
    ),
    "generators": Method(
        _TRAINER, "_load_rng_state", ("checkpoint",), True, "reads the states of random generators"
    ),
}
"""What a state of a run holds, and the method by which a trainer reads it."""


def without_weights(
    kind: type[PreTrainedModel], config: PretrainedConfig, **settings: Any
) -> PreTrainedModel:
    """A model of a class, its weights not initialised; on the device and with the memory of the context."""
    with no_init_weights():
        model: PreTrainedModel = kind._from_config(config, **settings)
    return model


def convert(
    model: PreTrainedModel, tensors: dict[str, torch.Tensor], device: torch.device, dtype: torch.dtype
) -> list[str]:
    """Put tensors under the names of a checkpoint into a model's parameters, as `from_pretrained` does.

    Parameters whose tensors are not given stay as they are.

    Returns:
        Names that are not the model's, and those of tensors that could not be converted.
    """
    settings = LoadStateDictConfig(
        weight_mapping=get_model_conversion_mapping(model), device_map={"": device}, dtype=dtype
    )
    found, _ = convert_and_load_state_dict_in_model(model, tensors, settings)
    return sorted([*found.unexpected_keys, *found.conversion_errors])


def reached(given: tuple[Any, ...]) -> tuple[Any, Any]:
    """Of what a module of experts is called with: the experts of each token, and their weights."""
    _, experts, weights = given
    return experts, weights


def unquantized(model: PreTrainedModel) -> None:
    """Let a model that was read from GGUF be saved: its weights are plain floats."""
    model.hf_quantizer = None
    model.is_quantized = False
    del model.config.quantization_config


def called(trainer: Trainer) -> list[TrainerCallback]:
    """The callbacks of a trainer, in the order in which each event calls them."""
    found: list[TrainerCallback] = trainer.callback_handler.callbacks
    return found


def resume_by(trainer: Trainer, readers: Mapping[str, Callable[..., None]]) -> None:
    """Make a trainer read the parts of a state (`RESUMED`) by functions of ours, given the state's folder."""
    for part, method in RESUMED.items():
        setattr(trainer, method.name, readers[part])
