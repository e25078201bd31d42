"""The modules of a checkpoint's transformers model without weights, and where there is room to run them."""

from __future__ import annotations

import ctypes
import math
from contextlib import suppress
from typing import TYPE_CHECKING

import torch

from scramble.checkpoints import Checkpoint
from scramble.checkpoints.configuration import configuration
from scramble.errors import UndecidedError, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def placement(checkpoint: Checkpoint) -> tuple[torch.device, torch.dtype]:
    """A GPU if the largest layer fits there, else the CPU; float64 if it fits, else float32.

    Raises:
        UndecidedError: neither holds a layer.
    """
    import psutil

    sizes = dict[int | None, int]()
    for name, slot in checkpoint.architecture.slots().items():
        if name in checkpoint.tensors:
            sizes[slot.layer] = sizes.get(slot.layer, 0) + math.prod(checkpoint.tensors[name].shape)
    weights = max(sizes.values())
    room = [(torch.device("cpu"), psutil.virtual_memory().available)]
    if torch.cuda.is_available():
        room.insert(0, (torch.device("cuda"), torch.cuda.mem_get_info()[0]))
    for dtype in (torch.float64, torch.float32):
        need = 3 * weights * dtype.itemsize  # the base's, a variant's, and what transformers converts
        for device, free in room:
            if need < free:
                return device, dtype
    raise UndecidedError(
        f"{checkpoint.folder}: verification needs {need / 1e9:.1f} GB for the largest layer in float32, "
        f"{room[-1][1] / 1e9:.1f} GB are free; use a larger machine, or --no-verify to skip it"
    )


def empty_model(checkpoint: Checkpoint, dtype: torch.dtype) -> PreTrainedModel:
    """The transformers model of a checkpoint, its buffers made and its parameters without memory."""
    from accelerate import init_empty_weights
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING
    from transformers.utils import logging

    from scramble.internals.transformers import without_weights

    logging.disable_progress_bar()
    config = configuration(checkpoint)
    try:
        with init_empty_weights(include_buffers=False):
            model = without_weights(
                MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config, dtype=dtype, experts_implementation="eager"
            )
    except Exception as error:  # whatever a config can make transformers raise: no verdict is possible
        raise UndecidedError(
            f"{checkpoint.folder}: transformers cannot build this model: {one_line(error)}"
        ) from error
    return model.eval()


def give_back() -> None:
    """Hand freed blocks to the system: glibc keeps those of up to 32 MB, layer after layer."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
