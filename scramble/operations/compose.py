"""Recorded scrambles as one map, for tensors and updates in memory."""

from __future__ import annotations

from functools import reduce
from pathlib import Path

from scramble.checkpoints import locate, open_checkpoint
from scramble.errors import ManifestError
from scramble.transforms.plan import Transform
from scramble.transforms.record import read_record


def compose(*models: str | Path) -> Transform:
    """The scrambles of one or more scrambled checkpoints as one transform, those of the first model first.

    Args:
        models: folders or hub ids with a `scramble.json`.

    Returns:
        The transform; called with tensors by name, it gives their images in float64.

    Raises:
        ManifestError: no models, or one without a usable manifest.
        MismatchError: different architectures.
    """
    if not models:
        raise ManifestError("compose needs at least one scrambled checkpoint")
    folders = [locate(model) for model in models]
    return reduce(
        Transform.then, (read_record(folder).transform(open_checkpoint(folder)) for folder in folders)
    )
