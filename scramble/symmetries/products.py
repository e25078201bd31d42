"""Products with the matrices of rotations: with numpy, or on a torch device inside `products_on`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from threadpoolctl import ThreadpoolController

from scramble.architecture.axes import Array
from scramble.errors import SelectionError

# Multiplications that OpenBLAS leaves to one thread. Tensors are transformed side by side, and threads inside
# each product would wait for one another (five times slower).
_ALONE = 1 << 18
_device: str | None = None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """One thread in each product and decomposition, in the whole process.

    Matrices are small and tensors are transformed side by side: threads inside each product would mostly
    wait for one another. Only libraries that are loaded are limited: scipy has an OpenBLAS of its own.
    """
    with ThreadpoolController().select(internal_api="openblas").limit(limits=1):
        yield


@contextmanager
def products_on(device: str | None) -> Iterator[None]:
    """Compute products on a torch device, `cuda` or `cuda:1`, in float64; None is numpy.

    Raises:
        SelectionError: torch has no such device here.
    """
    global _device
    if device is not None:
        check_device(device)
    before, _device = _device, device
    try:
        yield
    finally:
        _device = before


def check_device(device: str) -> None:
    """Whether torch can compute in float64 there.

    Raises:
        SelectionError: torch has no such device here.
    """
    import torch

    try:
        torch.empty(1, device=device, dtype=torch.float64).cpu()
    except (RuntimeError, AssertionError, TypeError) as error:  # NotImplementedError is a RuntimeError
        first = str(error).splitlines()[0]
        raise SelectionError(f"--device {device}: not here ({first})") from None


def multiply(x: Array, matrices: Array, out: Array) -> None:
    """`out = x @ matrices` for float64 stacks of any strides."""
    if _device is not None:
        import torch

        one, two = (torch.from_numpy(np.ascontiguousarray(part)).to(_device) for part in (x, matrices))
        out[...] = (one @ two).cpu().numpy()
        return
    strip = _ALONE // matrices.shape[-1] ** 2
    strip = strip if strip >= 4 else x.shape[-2]
    for start in range(0, x.shape[-2], strip):
        part = (..., slice(start, start + strip), slice(None))
        np.matmul(x[part], matrices, out=out[part])
