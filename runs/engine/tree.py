"""Nested values with tensors in them, as JSON and a safetensors file: what others keep in pickles."""

from __future__ import annotations

from typing import Any

import torch

Tensors = dict[str, torch.Tensor]
_SCALARS = (type(None), bool, int, float, str)


def pack(value: Any, tensors: Tensors) -> Any:
    """A value as JSON has it; its tensors go into `tensors` under numbers.

    Dictionaries may have keys of any scalar kind, and tuples stay tuples.

    Raises:
        TypeError: neither a tensor nor a scalar nor a dictionary, list or tuple of these.
    """
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[pack(key, tensors), pack(one, tensors)] for key, one in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [pack(one, tensors) for one in value]}
    if isinstance(value, list):
        return [pack(one, tensors) for one in value]
    if type(value) in _SCALARS:
        return value
    raise TypeError(f"a {type(value).__name__} cannot be kept")


def unpack(packed: Any, tensors: Tensors) -> Any:
    """What `pack` was given."""
    if isinstance(packed, list):
        return [unpack(one, tensors) for one in packed]
    if not isinstance(packed, dict):
        return packed
    ((kind, content),) = packed.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(unpack(one, tensors) for one in content)
    return {unpack(key, tensors): unpack(one, tensors) for key, one in content}
