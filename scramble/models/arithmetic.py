"""float64 inside transformers' models, how large a relative error is, and what the arithmetic resolves."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from scramble.architecture.axes import Array

# Below this, a difference is the arithmetic's.
RESOLUTION = {"float64": 1e-12, "float32": 1e-6}


class Float64(TorchFunctionMode):
    """Raise every float32 that a model asks for inside its forward pass to float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        args = tuple(torch.float64 if one is torch.float32 else one for one in args)
        kwargs = {key: torch.float64 if one is torch.float32 else one for key, one in (kwargs or {}).items()}
        return func(*args, **kwargs)


def relative(found: Array, reference: Array) -> float:
    """`||found - reference|| / ||reference||`; infinite where not finite."""
    error = float(np.linalg.norm(found - reference) / np.linalg.norm(reference))
    return error if np.isfinite(error) else float("inf")
