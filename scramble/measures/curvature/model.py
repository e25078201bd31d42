"""A whole transformers model in memory, for derivatives: eager attention, one dtype.

`scramble.models.forward` runs a layer at a time; derivatives of the loss go through all layers at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch

from scramble.checkpoints import Checkpoint
from scramble.errors import UndecidedError, one_line
from scramble.models.arithmetic import Float64
from scramble.symmetries.products import check_device

if TYPE_CHECKING:
    from jaxtyping import Float
    from transformers import PreTrainedModel

DTYPES = {"float32": torch.float32, "float64": torch.float64}
BATCH = 4  # sequences that go through the model at once: memory for activations, and 4 backward graphs


def device_of(asked: str | None) -> torch.device:
    """The device asked for; by default a GPU if there is one.

    Raises:
        SelectionError: torch has no such device here.
    """
    if asked is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    check_device(asked)
    return torch.device(asked)


def check_room(checkpoint: Checkpoint, need: int, device: torch.device) -> None:
    """Refuse what does not fit, before anything is loaded.

    Args:
        need: bytes for weights and vectors of their size. Activations of a batch come on top.

    Raises:
        UndecidedError: less is free.
    """
    import psutil

    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if need > free:
        raise UndecidedError(
            f"{checkpoint.folder}: needs {need / 1e9:.1f} GB on {device}, {free / 1e9:.1f} GB are free; "
            "use a larger machine, or fewer --layers where the command has them"
        )


def weights_in(checkpoint: Checkpoint, names: Iterable[str] | None = None) -> int:
    """How many weights some tensors have, or all that are counted once."""
    return sum(
        math.prod(checkpoint.tensors[name].shape)
        for name in (checkpoint.parameters if names is None else names)
    )


def load_model(checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """A checkpoint's model, its parameters without gradients.

    Raises:
        UndecidedError: transformers cannot load it, or lacks a weight.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        # No code of a checkpoint's own is run, and no pickle read: safetensors only.
        model, found = AutoModelForCausalLM.from_pretrained(
            checkpoint.folder,
            dtype=dtype,
            attn_implementation="eager",
            experts_implementation="eager",
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # whatever a config or a file can make transformers raise
        raise UndecidedError(
            f"{checkpoint.folder}: transformers cannot load this model: {one_line(error)}"
        ) from error
    if missing := sorted(found["missing_keys"]):
        raise UndecidedError(f"{checkpoint.folder}: transformers needs '{missing[0]}', which is not there")
    return model.to(device).eval().requires_grad_(False)


def arithmetic(dtype: torch.dtype) -> AbstractContextManager[object]:
    """Inside a float64 model transformers computes norms and softmax in float32: raise those too."""
    return Float64() if dtype == torch.float64 else nullcontext()


def finite(model: PreTrainedModel, logits: Float[torch.Tensor, "..."]) -> None:
    """Refuse logits that nothing can be measured on.

    Raises:
        UndecidedError: infinite or NaN logits.
    """
    if not torch.isfinite(logits).all():
        raise UndecidedError(f"{model.name_or_path}: its logits are not finite on these prompts")
