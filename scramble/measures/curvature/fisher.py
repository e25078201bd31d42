"""The diagonal of the Fisher information, from one squared gradient a sequence.

A token's Fisher information is `E_y [g_y g_y^T]`, `g_y` the gradient of `log p(y | tokens so far)`, `y` drawn
from the model; `F` is its mean over all positions of all sequences but the last of each, the contexts being
those of the text. With labels drawn independently at every position, the `g` of one sequence are independent
with mean zero, so that the square of their *sum* has the mean `sum_t E[g_t^2]`: one backward pass a sequence
of length T gives `(sum_t g_t)^2 / (T - 1)`, an unbiased estimate of that sequence's share of `diag F`
(`sampled`). With the text's own next tokens in place of drawn ones (`text`) the same is the *empirical*
Fisher of sequences: not `F` (Kunstner et al., arXiv 1905.12558), since the text is not drawn from the model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch

from scramble.measures.curvature.diagonal import Diagonal, Vectors
from scramble.measures.curvature.loss import log_likelihoods
from scramble.symmetries.draws import generator

if TYPE_CHECKING:
    from jaxtyping import Float64, Int64
    from transformers import PreTrainedModel

Labels = Literal["text", "sampled"]
Progress = Callable[[int, int], None]


def fisher_diagonal(
    model: PreTrainedModel,
    parameters: Vectors,
    tokens: Int64[torch.Tensor, "sequences time"],
    labels: Labels = "text",
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> Diagonal:
    """Mean over sequences of the squared gradient, over `T - 1`; a sample is a sequence.

    Memory: one gradient, and one accumulator of its size.

    Args:
        parameters: of the model, taking gradients.
        seed: of the drawn labels.

    Raises:
        UndecidedError: logits are not finite.
    """
    found = Diagonal()
    for place in range(len(tokens)):
        logs = log_likelihoods(model, tokens[place : place + 1])[0]
        chosen = tokens[place, 1:] if labels == "text" else drawn(logs.detach(), seed, place)
        likelihood = logs.gather(-1, chosen[:, None]).sum()
        gradient = torch.autograd.grad(likelihood, list(parameters.values()), materialize_grads=True)
        found.add(
            {name: one.square_().div_(len(chosen)) for name, one in zip(parameters, gradient, strict=True)}
        )
        progress(place + 1, len(tokens))
    return found


def drawn(logs: Float64[torch.Tensor, "time vocab"], seed: int, place: int) -> Int64[torch.Tensor, " time"]:
    """A label for every position, the same on every device: seed and sequence name the draw."""
    uniform = generator(seed, "labels", None, str(place)).uniform(size=len(logs))
    rising = logs.exp().cumsum(-1)
    level = torch.from_numpy(uniform).to(logs.device)[:, None] * rising[:, -1:]
    return torch.searchsorted(rising, level, right=True)[:, 0].clamp_(max=logs.shape[-1] - 1)
