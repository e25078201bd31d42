"""Undo every scramble of a checkpoint, or of one that was trained from a scrambled start."""

from __future__ import annotations

from pathlib import Path

from scramble.checkpoints import open_checkpoint, staging
from scramble.errors import ManifestError
from scramble.manifest import actions, inverse_actions, read_manifest
from scramble.rewrite import rewrite


def invert(source: Path, target: Path, *, manifest: Path | None = None, force: bool = False) -> list[str]:
    """Write a copy of a checkpoint in the base's frame; returns the names of the tensors that changed.

    Inverses run in reverse order. Permutations come back bit for bit; a rotation is rounded once more.

    Args:
        manifest: the folder whose `scramble.json` to undo, where the checkpoint has none of its own (a
            trained one: the folder that its run started from).

    Raises:
        ManifestError: no manifest, or one of another family.
        ScrambleError: see `scramble.errors`.
    """
    checkpoint = open_checkpoint(source)
    done, elements = read_manifest(manifest or source)
    if done.family != checkpoint.architecture.family.name:
        raise ManifestError(
            f"{manifest or source}: a manifest of {done.family}, the checkpoint is another family"
        )
    if bad := [layer for layer in done.layers if layer >= checkpoint.architecture.layers]:
        raise ManifestError(f"{manifest or source}: layer {bad[0]} is not in {source}")
    touched = inverse_actions(actions(checkpoint.architecture, checkpoint.tensors, done.steps, elements))
    with staging(target, force=force) as stage:
        rewrite(checkpoint, stage, touched)
        stage.commit()
    return sorted(touched)
