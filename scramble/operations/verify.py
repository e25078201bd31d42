"""Whether two checkpoints compute one function."""

from __future__ import annotations

from pathlib import Path

from scramble.checkpoints import locate, open_checkpoint
from scramble.equivalence.certify import certify
from scramble.equivalence.claims import recorded_claim
from scramble.transforms.manifest import Equivalence


def verify(base: str | Path, model: str | Path, *, prompts: str | Path | None = None) -> Equivalence:
    """Compare two checkpoints that should compute the same function.

    With a manifest in `model` that starts from `base`, all checks run; otherwise only storage.

    Args:
        base: a folder, or a hub id `org/name@revision`.
        model: a folder or a hub id, as `base`.
        prompts: a text file to run on, cut by the base's tokenizer; without, tokens that reach what differs.

    Returns:
        The verdict, with every measured error beside its bound; `equivalent` says whether all checks passed.

    Raises:
        CheckpointError: a checkpoint cannot be read.
        ManifestError: the manifest of `model` is damaged.
        MismatchError: the folders do not hold the same tensors.
        UndecidedError: a layer does not fit in memory, the logits are not finite, or something that differs
            is not seen in them (the message names the tensor).
        SelectionError: the prompts cannot be read.
    """
    first, second = open_checkpoint(locate(base)), open_checkpoint(locate(model))
    return certify(first, second, recorded_claim(first, second), prompts=Path(prompts) if prompts else None)
