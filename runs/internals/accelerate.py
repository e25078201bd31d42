"""What accelerate does not promise to keep, and what it is needed for.

- `prepare` puts a forward with autocast on the model itself, and leaves that of its class: a divergence is
  measured in float32 whatever training computes in.
- the loader that `prepare` makes keeps the sampler in `batch_sampler.sampler`: the orders of epochs that are
  over are drawn again where a run is resumed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def plain_forward(model: Any, **inputs: Any) -> Any:
    """What a model returns, computed in the dtype of its weights."""
    return type(model).forward(model, **inputs)


def sampler(loader: Any) -> Iterable[int]:
    """What draws the order of a trainer's data, one epoch each time that it is gone through."""
    found: Iterable[int] = loader.batch_sampler.sampler
    return found
