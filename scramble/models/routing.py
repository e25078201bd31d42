"""Which experts a mixture runs, and a config with which it runs them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scramble.architecture.axes import Slot
from scramble.checkpoints import Checkpoint

if TYPE_CHECKING:
    import torch

# An expert that no token gives a larger weight is hardly in the output.
LEAST_WEIGHT = 1e-3


class Routing:
    """Records, while a variant runs, which experts its tokens reach with a weight that shows.

    Attributes:
        variant: the place of the variant that runs; nothing is recorded while it is None.
        reached: (layer, variant) to the experts.
    """

    def __init__(self) -> None:
        self.variant: int | None = None
        self.reached: dict[tuple[int, int], set[int]] = {}

    def watch(self, layer: int, module: torch.nn.Module) -> None:
        """Look at what enters the experts of a decoder layer."""
        from scramble.internals.transformers import EXPERTS, reached

        for name, part in module.named_modules():
            if name.split(".")[-1] == EXPERTS:

                def note(module: torch.nn.Module, given: tuple[Any, ...]) -> None:
                    if self.variant is not None:
                        experts, weights = reached(given)
                        shown = experts[weights.abs() >= LEAST_WEIGHT].unique().tolist()
                        self.reached.setdefault((layer, self.variant), set()).update(shown)

                part.register_forward_pre_hook(note)

    def by(self, layer: int, *variants: int) -> set[int]:
        """The experts that all of these variants reach in a layer."""
        return set.intersection(*(self.reached.get((layer, variant), set()) for variant in variants))


def experts_that_differ(slot: Slot, differing: np.ndarray[Any, np.dtype[np.bool_]]) -> set[int]:
    """The experts of a tensor where a mask of its entries is true.

    Args:
        differing: (*shape of the tensor), bool.
    """
    if "expert" in slot.position:
        return {slot.position["expert"]}
    return set(np.flatnonzero(differing.reshape(len(differing), -1).any(axis=1)).tolist())


def dense(checkpoint: Checkpoint) -> Checkpoint:
    """The same weights with a config that routes every token to all experts."""
    config: Mapping[str, Any] = checkpoint.config
    changes = {"num_experts_per_tok": checkpoint.architecture.sizes["expert"]}
    if config.get("n_group"):
        changes["topk_group"] = config["n_group"]
    return replace(checkpoint, config={**config, **changes})
