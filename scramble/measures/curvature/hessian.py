"""The Hessian of the mean token loss, by its products with vectors (double backward)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from scramble.errors import SelectionError, UndecidedError
from scramble.measures.curvature.diagonal import Diagonal, Vectors
from scramble.measures.curvature.loss import token_losses
from scramble.measures.curvature.model import BATCH
from scramble.symmetries.draws import generator

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from transformers import PreTrainedModel

Product = Callable[[Vectors], Vectors]
Progress = Callable[[int, int], None]
TOLERANCE = 1e-4  # of eigenvalues, relative, where ARPACK ends
LEAST_BASIS, MOST_RESTARTS = 12, 100


@dataclass(frozen=True)
class Eigenvalues:
    """The algebraically largest eigenvalues that Lanczos found, descending.

    Attributes:
        residuals: `||H v - lambda v||` of each unit vector: an eigenvalue lies within it.
        products: how many Hessian-vector products were made.
    """

    values: tuple[float, ...]
    residuals: tuple[float, ...]
    products: int


def hessian_product(
    model: PreTrainedModel, parameters: Vectors, tokens: Int64[torch.Tensor, "sequences time"]
) -> Product:
    """`v -> H v`, `H` the Hessian of the mean token loss over the parameters given, all others fixed.

    Memory: the gradient, its backward graph for `BATCH` sequences, the result.
    """
    count = tokens.shape[0] * (tokens.shape[1] - 1)
    chosen = list(parameters.values())

    def product(vector: Vectors) -> Vectors:
        result: Vectors = {}
        for batch in torch.split(tokens, BATCH):
            loss = token_losses(model, batch).sum() / count
            gradient = torch.autograd.grad(loss, chosen, create_graph=True, materialize_grads=True)
            along = [vector[name] for name in parameters]
            part = torch.autograd.grad(gradient, chosen, along, materialize_grads=True)
            del loss, gradient
            for name, one in zip(parameters, part, strict=True):
                result[name] = result[name].add_(one) if name in result else one.detach()
        return result

    return product


def hutchinson(
    product: Product,
    parameters: Vectors,
    probes: int,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> Diagonal:
    """The diagonal as the mean of `z * (H z)`, `z` uniform on -1 and 1 (Rademacher); a sample is a probe.

    Unbiased, with the variance `sum_{j != i} H_ij^2` an entry and probe; exact where H is diagonal. So where
    the standard error is near the estimate's size, that size follows the norm of the row of H, not its
    diagonal entry. A probe covers all the parameters at once. Seed, probe and tensor name a draw. Memory: the
    probe, `H z`, and one accumulator.
    """
    found = Diagonal()
    for probe in range(probes):
        z = {name: rademacher(one, seed, probe, name) for name, one in parameters.items()}
        image = product(z)
        found.add({name: image[name].mul_(z[name]) for name in parameters})
        progress(probe + 1, probes)
    return found


def rademacher(like: torch.Tensor, seed: int, probe: int, name: str) -> torch.Tensor:
    """Signs in the shape and dtype of a tensor."""
    bits = generator(seed, "rademacher", None, str(probe), name).integers(
        0, 2, tuple(like.shape), dtype=np.int8
    )
    return torch.from_numpy(2 * bits - 1).to(like.device, like.dtype)


def basis_size(count: int, n: int) -> int:
    """How many Lanczos vectors are held for `count` eigenvalues of an n x n matrix."""
    return min(n, max(2 * count + 2, LEAST_BASIS))


def top_eigenvalues(product: Product, parameters: Vectors, count: int, seed: int = 0) -> Eigenvalues:
    """The `count` largest eigenvalues, by ARPACK's Lanczos to a relative `TOLERANCE`.

    Lanczos from a random start finds the top unless the start is orthogonal to it; nothing here certifies
    that none was missed. Memory: `basis_size` vectors of the block.

    Raises:
        SelectionError: more eigenvalues than the block has.
        UndecidedError: Lanczos did not converge.
    """
    shapes = {name: tuple(one.shape) for name, one in parameters.items()}
    first = next(iter(parameters.values()))
    n = sum(one.numel() for one in parameters.values())
    if not 0 < count < n:
        raise SelectionError(f"--eigenvalues {count}: the block has {n} weights")
    made = 0

    def multiply(flat: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        nonlocal made
        made += 1
        pieces = torch.from_numpy(np.ascontiguousarray(flat).reshape(-1)).to(first.device, first.dtype)
        parts = torch.split(pieces, [math.prod(shape) for shape in shapes.values()])
        vector = {name: part.view(shapes[name]) for name, part in zip(shapes, parts, strict=True)}
        image = product(vector)
        return torch.cat([image[name].reshape(-1) for name in shapes]).cpu().numpy()

    kind = np.float64 if first.dtype == torch.float64 else np.float32
    start = generator(seed, "lanczos", None, next(iter(shapes))).standard_normal(n).astype(kind)
    operator = LinearOperator((n, n), matvec=multiply, dtype=kind)
    try:
        values, vectors = eigsh(
            operator,
            k=count,
            which="LA",
            v0=start,
            ncv=basis_size(count, n),
            tol=TOLERANCE,
            maxiter=MOST_RESTARTS,
        )
    except ArpackNoConvergence:
        raise UndecidedError(f"Lanczos found no {count} top eigenvalues in {made} products") from None
    order = np.argsort(values)[::-1]
    residuals = [
        float(np.linalg.norm(multiply(vectors[:, at]) - values[at] * vectors[:, at])) for at in order
    ]
    return Eigenvalues(tuple(float(values[at]) for at in order), tuple(residuals), made)
