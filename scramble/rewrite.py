"""Write a checkpoint folder that is another one with some tensors replaced."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from scramble.actions import Actions
from scramble.checkpoints import PARTIAL, Checkpoint, Staging
from scramble.errors import TargetError
from scramble.manifest import MANIFEST, TouchedTensor
from scramble.transform import rounded

# Other copies of the weights: they would still hold the old ones.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".gguf", ".onnx")


def rewrite(checkpoint: Checkpoint, stage: Staging, touched: Actions) -> dict[str, TouchedTensor]:
    """Copy every shard with the kernel, overwrite the touched tensors, and copy the files beside them.

    Names of shards and of `config.json` keep their `.partial` until the staging folder is committed.
    """
    need = sum(shard.size for shard in checkpoint.shards)
    if (free := shutil.disk_usage(stage.folder).free) < need:
        raise TargetError(f"{stage.target.parent}: the disk is full ({need:,} bytes needed, {free:,} free)")
    records = {}
    sizes = checkpoint.architecture.sizes
    for shard in checkpoint.shards:
        name = shard.path.name + PARTIAL
        stage.copy(shard.path, name)
        for tensor in shard.tensors.keys() & touched.keys():
            action, entry = touched[tensor], shard.tensors[tensor]
            words, storage = checkpoint.words(action.source), checkpoint.storage(tensor)
            image, error = rounded(tensor, words, storage, action.layout, sizes, action.elements)
            stage.overwrite(name, entry.start, image.data.cast("B"))
            records[tensor] = TouchedTensor(
                before=checkpoint.tensor_hash(tensor),
                after=hashlib.sha256(image.data).hexdigest(),
                dtype=entry.dtype,
                rounding_error=error,
            )
    for path in side_files(checkpoint.folder):
        stage.copy(path, path.name)
    stage.write("config.json" + PARTIAL, (checkpoint.folder / "config.json").read_bytes())
    return dict(sorted(records.items()))


def side_files(folder: Path) -> Iterator[Path]:
    """Tokenizer, generation config, index, licence: what stands beside the weights, one level deep."""
    for path in sorted(folder.iterdir()):
        weights = path.suffix in (*_WEIGHTS, PARTIAL) or ".bin.index" in path.name
        if path.is_file() and not weights and path.name not in ("config.json", MANIFEST):
            yield path


def left_out(checkpoint: Checkpoint) -> list[str]:
    """Names in the folder that `rewrite` does not carry over: other copies of the weights, folders."""
    kept = {path.name for path in side_files(checkpoint.folder)} | {"config.json", MANIFEST, "scramble"}
    kept |= {shard.path.name for shard in checkpoint.shards}
    return sorted(path.name for path in checkpoint.folder.iterdir() if path.name not in kept)
