"""Fold norm weights into the weights that read them: a base whose residual stream can be rotated.

`norm(x) * g` followed by `W` is `norm(x)` followed by `W diag(g)`: every gain moves into the linear maps that
read its norm, and becomes one (or zero, where the gain is `1 + weight`). A head that is tied to the embedding
is stored on its own, since only the head reads the last norm. (Ashkboos et al. 2024, SliceGPT, section 3.2.)

A folded checkpoint is a base of its own: inverses and aligned frames of later scrambles return to it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from scramble._version import __version__
from scramble.architecture.axes import Array
from scramble.checkpoints import PARTIAL, Checkpoint, locate, open_checkpoint, staging, target_of
from scramble.checkpoints.extend import extend
from scramble.checkpoints.shard import TensorEntry
from scramble.equivalence.claims import claim_of_fold
from scramble.errors import SymmetryError
from scramble.operations.ending import certified, publish
from scramble.present.progress import Lines, reporter
from scramble.transforms.card import renamed
from scramble.transforms.folding import folded
from scramble.transforms.manifest import Fold, Manifest, Source, TouchedTensor
from scramble.transforms.record import has_manifest
from scramble.transforms.rewrite import copy_side_files, left_out


def fold(
    model: str | Path,
    out: str | Path | None = None,
    *,
    check: bool = True,
    force: bool = False,
    full_hash: bool = False,
    progress: Lines = None,
) -> Manifest:
    """Write a folded copy of a model, verified before it gets its name.

    Args:
        model: a folder, or a hub id `org/name@revision`.
        out: the folder to write; by default `NAME-folded`, beside a folder or in the working folder.
        check: verify what was written (algebra and storage).
        force: replace an existing target.
        full_hash: record a hash of every byte of the source, not only of the folded tensors.
        progress: say on standard error what happens; by default in a terminal and in a notebook.

    Returns:
        The manifest that was written.

    Raises:
        SymmetryError: the architecture's norms cannot be folded (the message says why), the gains are folded
            already, or the checkpoint is a scrambled one.
        CheckpointError: what reads a norm is stored in a quantised format.
        ScrambleError: see `scramble.errors`.
    """
    report = reporter(progress)
    source, target = locate(model), target_of(model, out, "folded")
    checkpoint = open_checkpoint(source)
    if has_manifest(source):
        raise SymmetryError(f"{source}: has a scramble.json; fold the base, then scramble the folded one")
    exact = folded(checkpoint)
    with staging(target, force=force, keep=source) as stage:
        report(f"folding the norms into {len(exact)} tensors")
        if others := left_out(checkpoint):
            report(f"not carried over: {', '.join(others)}")
        records = {}
        head = next((name for name in exact if name not in checkpoint.tensors), None)
        for shard in checkpoint.shards:
            name = checkpoint.place(shard) + PARTIAL
            untied = head is not None and checkpoint.tied[head] in shard.tensors
            added = {head: checkpoint.entry(head)} if head is not None and untied else {}
            (stage.folder / name).parent.mkdir(parents=True, exist_ok=True)
            extended = extend(shard, stage.folder / name, added)
            for tensor in extended.tensors.keys() & exact.keys():
                entry = extended.tensors[tensor]
                values = exact[tensor]()
                image = entry.storage.encode(values)
                stage.overwrite(name, entry.start, image.data.cast("B"))
                records[tensor] = _record(checkpoint, tensor, entry, image, values)
        copy_side_files(checkpoint.folder, stage, renamed(source))
        if head is not None:
            _name_in_index(stage.folder, head, checkpoint.tied[head])
        config = checkpoint.config | ({"tie_word_embeddings": False} if checkpoint.tied else {})
        stage.write("config.json" + PARTIAL, (json.dumps(config, indent=2) + "\n").encode())
        stage.sync()
        source_record = Source.of(checkpoint, checkpoint.tensors.keys() & exact.keys(), full=full_hash)
        done = Fold(version=__version__, source=source_record, tensors=dict(sorted(records.items())))
        if check:
            done.equivalence = certified(
                stage, checkpoint, lambda written: claim_of_fold(checkpoint, written), report=report
            )
        family = checkpoint.architecture.family.name
        manifest = Manifest(family=family, fold=done, scrambles=())
        publish(stage, manifest, str(model))
    return manifest


def _record(
    checkpoint: Checkpoint, name: str, entry: TensorEntry, image: Array, exact: Array
) -> TouchedTensor:
    norm = float(np.linalg.norm(exact))
    gap = float(np.linalg.norm(entry.storage.decode(image) - exact))
    return TouchedTensor(
        before=checkpoint.tensor_hash(name),
        after=hashlib.sha256(image.data).hexdigest(),
        dtype=entry.dtype,
        rounding_error=gap / norm if norm else 0.0,
    )


def _name_in_index(folder: Path, head: str, embedding: str) -> None:
    """Put a tensor that was added into the index, beside its embedding."""
    from scramble.checkpoints.folder import INDEX

    if (folder / INDEX).exists():
        index = json.loads((folder / INDEX).read_bytes())
        index["weight_map"][head] = index["weight_map"][embedding]
        index.get("metadata", {}).pop("total_size", None)
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
