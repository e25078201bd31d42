"""The loss whose curvature is measured, on a whole model, and the matrices it is measured in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from scramble.errors import UndecidedError
from scramble.measures.curvature.diagonal import Vectors
from scramble.measures.curvature.model import arithmetic, finite

if TYPE_CHECKING:
    from jaxtyping import Float64, Int64
    from transformers import PreTrainedModel


def log_likelihoods(
    model: PreTrainedModel, tokens: Int64[torch.Tensor, "batch time"]
) -> Float64[torch.Tensor, "batch time-1 vocab"]:
    """`log p(. | tokens so far)` of all positions but the last, whose next token the text does not have.

    Raises:
        UndecidedError: logits are not finite.
    """
    with arithmetic(next(model.parameters()).dtype):
        logits = model(tokens, use_cache=False).logits[:, :-1]
    finite(model, logits)
    return logits.double().log_softmax(-1)


def token_losses(
    model: PreTrainedModel, tokens: Int64[torch.Tensor, "batch time"]
) -> Float64[torch.Tensor, "batch time-1"]:
    """Negative log-likelihood of the text's own next tokens, in nats."""
    return -log_likelihoods(model, tokens).gather(-1, tokens[:, 1:, None])[..., 0]


def parameters_of(model: PreTrainedModel, names: Sequence[str]) -> Vectors:
    """The parameters that stored tensors became, which then take gradients.

    Raises:
        UndecidedError: one is no parameter of its own, as experts that transformers merges on loading.
    """
    held = dict(model.named_parameters())
    prefix = f"{model.base_model_prefix}."
    found = {}
    for name in names:
        parameter = held.get(name, held.get(prefix + name))
        if parameter is None or parameter.ndim not in (2, 3):
            raise UndecidedError(
                f"{model.name_or_path}: '{name}' is no matrix of its own in the transformers model; "
                "choose others with --modules"
            )
        found[name] = parameter.requires_grad_(True)
    return found
