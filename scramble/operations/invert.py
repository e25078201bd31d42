"""Undo every scramble of a checkpoint, or of one that was trained from a scrambled start."""

from __future__ import annotations

from pathlib import Path

from scramble.checkpoints import locate, open_checkpoint, staging, target_of
from scramble.errors import ManifestError
from scramble.symmetries.products import one_blas_thread
from scramble.transforms.card import renamed
from scramble.transforms.record import read_record
from scramble.transforms.rewrite import rewrite


@one_blas_thread()
def invert(
    model: str | Path,
    out: str | Path | None = None,
    *,
    manifest: str | Path | None = None,
    force: bool = False,
) -> list[str]:
    """Write a copy of a checkpoint in the base's frame.

    Inverses run in reverse order. Permutations come back bit for bit; a rotation is rounded once more.

    Args:
        model: a folder, or a hub id `org/name@revision`.
        out: the folder to write; by default `NAME-inverted`, beside a folder or in the working folder.
        manifest: the folder whose `scramble.json` to undo, where the checkpoint has none of its own (a
            trained one: the folder that its run started from).
        force: replace an existing target.

    Returns:
        The names of the tensors that changed, in order.

    Raises:
        ManifestError: no manifest, one of another model, or nothing to undo.
        ScrambleError: see `scramble.errors`.
    """
    source, target = locate(model), target_of(model, out, "inverted")
    checkpoint = open_checkpoint(source)
    record = read_record(Path(manifest or source))
    if not record.is_scrambled:
        raise ManifestError(f"{manifest or source}: folded, not scrambled; folding is not undone")
    forward = record.transform(checkpoint)
    first = record.manifest.scrambles[0].tensors
    if all(checkpoint.tensor_hash(name) == record.before for name, record in first.items()):
        raise ManifestError(f"{source}: is in the base's frame already")
    touched = forward.inverse().actions
    with staging(target, force=force, keep=source) as stage:
        rewrite(checkpoint, stage, touched, renamed(source, back=True))
        stage.commit()
    return sorted(touched)
