"""Fold norm gains into the weights that read them, which yields a base whose residual stream may turn.

`norm(x) * g` followed by `W` is `norm(x)` followed by `W diag(g)`: every gain moves into the linear maps that
read its norm, and becomes one (or zero, where the gain is `1 + weight`). A head that is tied to the embedding
is stored on its own, since only the head reads the last norm. (Ashkboos et al. 2024, SliceGPT, section 3.2.)

A folded checkpoint is a base of its own: inverses and aligned frames of later scrambles return to it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import scramble
from scramble.axes import Array
from scramble.card import CARD, card, renamed
from scramble.checkpoints import PARTIAL, Checkpoint, locate, open_checkpoint, staging, target_of
from scramble.checkpoints.extend import extend
from scramble.checkpoints.shard import TensorEntry
from scramble.errors import CheckpointError, NotEquivalentError, SymmetryError
from scramble.manifest import MANIFEST, Fold, Manifest, Source, TouchedTensor, has_manifest
from scramble.operations.verify import Claim, certify
from scramble.rewrite import copy_side_files, left_out
from scramble.transform import off

if TYPE_CHECKING:
    from jaxtyping import Float64


def fold(
    model: str | Path,
    out: str | Path | None = None,
    *,
    check: bool = True,
    force: bool = False,
    full_hash: bool = False,
    report: Callable[[str], None] = lambda message: None,
) -> Manifest:
    """Write a folded copy of a model, verified before it gets its name.

    Args:
        model: a folder, or a hub id `org/name@revision`.
        out: the folder to write; by default `NAME-folded`, beside a folder or in the working folder.
        check: verify what was written (algebra and storage).
        force: replace an existing target.
        full_hash: record a hash of every byte of the source, not only of the folded tensors.

    Raises:
        SymmetryError: the architecture's norms cannot be folded (the message says why), the gains are folded
            already, or the checkpoint is a scrambled one.
        CheckpointError: what reads a norm is stored in a quantised format.
        ScrambleError: see `scramble.errors`.
    """
    source, target = locate(model), target_of(model, out, "folded")
    checkpoint = open_checkpoint(source)
    if has_manifest(source):
        raise SymmetryError(f"{source}: has a scramble.json; fold the base, then scramble the folded one")
    exact = _folded(checkpoint)
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
            written = extend(shard, stage.folder / name, added)
            for tensor in written.tensors.keys() & exact.keys():
                entry = written.tensors[tensor]
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
        done = Fold(
            version=scramble.__version__,
            source=Source(
                path=str(source),
                hash=checkpoint.hash(checkpoint.tensors.keys() & exact.keys(), full=full_hash),
                hash_kind="full" if full_hash else "touched",
            ),
            tensors=dict(sorted(records.items())),
        )
        if check:
            report("verifying")
            folded = open_checkpoint(stage.folder, suffix=PARTIAL)
            done.equivalence = certify(checkpoint, folded, claim_of_fold(checkpoint, folded))
            if done.equivalence.verdict != "equivalent":
                raise NotEquivalentError(
                    f"{target}: not equivalent to {source}, nothing was written: {done.equivalence.failed()}"
                )
        manifest = Manifest(family=checkpoint.architecture.family.name, fold=done, scrambles=())
        stage.write(CARD, card(target.name, str(model), manifest).encode())
        stage.write(MANIFEST, (manifest.model_dump_json(indent=2) + "\n").encode())
        stage.commit()
    return manifest


def claim_of_fold(base: Checkpoint, model: Checkpoint) -> Claim:
    """What a folded copy of `base` should hold."""
    exact = _folded(base)

    def words_off(name: str) -> int:
        if name in exact:
            return off(model.words(name), model.storage(name), exact[name]())
        return int(np.count_nonzero(base.words(name) != model.words(name)))

    norms = frozenset(
        name
        for name, slot in base.architecture.slots().items()
        if slot.local in base.architecture.family.folds
    )
    return Claim(exact, words_off, norms)


def _folded(checkpoint: Checkpoint) -> dict[str, Callable[[], Array]]:
    """Every tensor that folding changes, to its float64 values."""
    architecture = checkpoint.architecture
    family, slots = architecture.family, architecture.slots()
    for constraint in architecture.constraints(None):
        if constraint.axis == "hidden" and constraint.kind in ("layer_norm", "post_norm"):
            why = {
                "layer_norm": "their mean and bias do not fold into the weights that read them",
                "post_norm": "their gains sit before the residual sum, where no weight can take them up",
            }[constraint.kind]
            raise SymmetryError(f"{family.name}: {constraint.note}, and {why}")
    neutral = 0.0 if family.offset else 1.0
    quantised = architecture.quantised(checkpoint.tensors)
    found: dict[str, Callable[[], Array]] = {}
    gains = {
        name: slot
        for name, slot in slots.items()
        if slot.local in family.folds and name in checkpoint.tensors
    }
    if all((_values(checkpoint, name) == neutral).all() for name in gains):
        raise SymmetryError(f"{checkpoint.folder}: its norms have no gains, it is folded already")
    for norm, slot in gains.items():
        found[norm] = partial(np.full, checkpoint.tensors[norm].shape, neutral)
        for name in _readers(checkpoint, norm, slot.layer, family.folds[slot.local]):
            if name in quantised:
                raise CheckpointError(
                    f"{checkpoint.folder}: '{name}' reads '{norm}' and is stored in a quantised format "
                    f"('{quantised[name][0]}'), which is copied but never changed"
                )
            found[name] = partial(_scaled, checkpoint, name, norm, 1.0 - neutral)
    return found


def _readers(checkpoint: Checkpoint, norm: str, layer: int | None, local: tuple[str, ...]) -> Iterator[str]:
    """The linear maps that read a norm and are there: stored, tied to an embedding, or quantised."""
    architecture = checkpoint.architecture
    quantised = architecture.quantised(checkpoint.tensors)
    for name, slot in architecture.slots().items():
        there = checkpoint.holds(name) or name in quantised
        if slot.layer == layer and slot.local in local and there:
            yield name


def _scaled(checkpoint: Checkpoint, name: str, norm: str, offset: float) -> Float64[np.ndarray, ...]:
    """`W diag(g)`: a tensor with its `hidden` axis scaled by a norm's gain."""
    architecture = checkpoint.architecture
    gain = _values(checkpoint, norm) + offset
    values = np.array(_values(checkpoint, name))
    for names, view in architecture.slots()[name].layout.views(values, architecture.sizes):
        shape = [1] * view.ndim
        shape[names.index("hidden")] = -1
        view *= gain.reshape(shape)
    return values


def _values(checkpoint: Checkpoint, name: str) -> Float64[np.ndarray, ...]:
    return checkpoint.storage(name).decode(checkpoint.words(name))


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
