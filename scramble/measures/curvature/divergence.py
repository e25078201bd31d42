"""How far an update moves the predictions: KL divergences, and their second-order term.

arXiv 2511.08567, 3.1 and appendix F. With `D = theta+ - theta0` and `K` the forward KL,
`K = ||D||_F(theta)^2 / 2 + O(||D||^3)`, where `||D||_F(theta) = sqrt(D^T F D)` and `F` is the Fisher
information at the start. For one token with logits `z` and probabilities `p = softmax(z)` the score of label
`y` along `D` is `g_y . D = dz_y - sum_v p_v dz_v` with `dz = (dz/dtheta) D`, so its mean square over labels
drawn from the model, `D^T F D`, is the variance of `dz` under `p`. It needs one directional derivative
(forward mode), and no label has to be drawn.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from scramble.errors import UndecidedError, one_line
from scramble.measures.curvature.model import BATCH, arithmetic, finite

if TYPE_CHECKING:
    from jaxtyping import Float, Float64, Int64
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Divergence:
    """Means over all positions of all sequences, in nats a token.

    Attributes:
        kl: `KL(start || end)`, forward.
        kl_reverse: `KL(end || start)`.
        kl_error, kl_reverse_error: standard errors over sequences; NaN for one sequence.
        fisher_square: `D^T F D`, over all parameters.
        update_square: `||D||^2`, over all parameters.
    """

    kl: float
    kl_error: float
    kl_reverse: float
    kl_reverse_error: float
    fisher_square: float
    update_square: float


def divergence(
    start: PreTrainedModel, end: PreTrainedModel, tokens: Int64[torch.Tensor, "sequences time"]
) -> Divergence:
    """Measure one update. Memory: the two models, and the activations of `BATCH` sequences.

    Args:
        end: its parameters are overwritten by the update.

    Raises:
        UndecidedError: logits are not finite, or the model has no forward-mode derivative.
    """
    dtype = next(start.parameters()).dtype
    forward, reverse, squares = list[torch.Tensor](), list[torch.Tensor](), list[torch.Tensor]()
    with torch.no_grad(), arithmetic(dtype):
        for batch in torch.split(tokens, BATCH):
            ours, theirs = (one(batch, use_cache=False).logits for one in (start, end))
            finite(start, ours)
            finite(end, theirs)
            p, q = ours.double().log_softmax(-1), theirs.double().log_softmax(-1)
            forward.append(relative_entropy(p, q))
            reverse.append(relative_entropy(q, p))
        for old, new in zip(start.parameters(), end.parameters(), strict=True):
            new.sub_(old)
        update = dict(end.named_parameters())
        for batch in torch.split(tokens, BATCH):
            squares.append(fisher_square(*_slope(start, update, batch)))
        update_square = sum(float(one.double().square().sum()) for one in update.values())
    kl, kl_error = _mean(torch.cat(forward))
    kl_reverse, kl_reverse_error = _mean(torch.cat(reverse))
    return Divergence(
        kl,
        kl_error,
        kl_reverse,
        kl_reverse_error,
        float(torch.cat(squares).mean()),
        update_square,
    )


def relative_entropy(
    p: Float64[torch.Tensor, "*positions vocab"], q: Float64[torch.Tensor, "*positions vocab"]
) -> Float64[torch.Tensor, "*positions"]:
    """`KL(p || q)` of log-probabilities, in nats."""
    return (p.exp() * (p - q)).sum(-1)


def fisher_square(
    logits: Float64[torch.Tensor, "*positions vocab"], slopes: Float64[torch.Tensor, "*positions vocab"]
) -> Float64[torch.Tensor, "*positions"]:
    """The variance of the logits' directional derivatives under the softmax: `D^T F D` of each position."""
    p = logits.softmax(-1)
    centred = slopes - (p * slopes).sum(-1, keepdim=True)
    return (p * centred.square()).sum(-1)


def _slope(
    model: PreTrainedModel, update: dict[str, torch.Tensor], tokens: Int64[torch.Tensor, "batch time"]
) -> tuple[Float64[torch.Tensor, "batch time vocab"], Float64[torch.Tensor, "batch time vocab"]]:
    """Logits, and their derivative along the update."""
    from torch.func import functional_call, jvp

    def logits(parameters: dict[str, torch.Tensor]) -> Float[torch.Tensor, "batch time vocab"]:
        return functional_call(model, parameters, (tokens,), {"use_cache": False}).logits

    try:
        with warnings.catch_warnings():  # torch's forward mode calls a part of torch that it deprecates
            warnings.filterwarnings("ignore", ".*torch.jit", DeprecationWarning)
            found = jvp(logits, (dict(model.named_parameters()),), (update,))
    except (RuntimeError, NotImplementedError) as error:
        raise UndecidedError(
            f"{model.name_or_path}: no forward-mode derivative here: {one_line(error)}"
        ) from error
    return found[0].double(), found[1].double()


def _mean(values: Float64[torch.Tensor, "sequences time"]) -> tuple[float, float]:
    """The mean, and its standard error over sequences."""
    means = values.mean(-1)
    error = float(means.std() / len(means) ** 0.5) if len(means) > 1 else float("nan")
    return float(means.mean()), error
