"""Write a checkpoint folder that is another one with some tensors replaced."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from scramble.checkpoints import PARTIAL, Checkpoint, Staging
from scramble.checkpoints.folder import INDEX, SINGLE
from scramble.checkpoints.shard import TensorEntry
from scramble.errors import TargetError
from scramble.transforms.manifest import MANIFEST, TouchedTensor
from scramble.transforms.plan import Actions
from scramble.transforms.rounding import rounded

# Where transformers keeps the chat templates of a tokenizer that has several.
CHAT_TEMPLATES = "additional_chat_templates"
# Tensors at a time; more would outrun the disk, and each takes memory.
WORKERS = 4
# Descriptions of modules behind the model, in folders that are not carried over.
_BEHIND = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json")
# Other copies of the weights: they would still hold the old ones.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".gguf", ".onnx")


def rewrite(
    checkpoint: Checkpoint, stage: Staging, touched: Actions, renamed: Mapping[str, str | None]
) -> dict[str, TouchedTensor]:
    """Copy every shard with the kernel, overwrite the touched tensors, and copy the files beside them.

    Names of shards and of `config.json` keep their `.partial` until the staging folder is committed.
    Tensors are transformed side by side while the next shards are copied. `renamed` are files that take
    another name, or (None) are left out.
    """
    need = sum(shard.size for shard in checkpoint.shards)
    if (free := shutil.disk_usage(stage.folder).free) < need:
        raise TargetError(f"{stage.target.parent}: the disk is full ({need:,} bytes needed, {free:,} free)")
    jobs: dict[str, Future[TouchedTensor]] = {}
    pool = ThreadPoolExecutor(min(len(os.sched_getaffinity(0)), WORKERS))
    try:
        for shard in checkpoint.shards:
            entries = [entry for name, entry in shard.tensors.items() if name in touched]
            copy = checkpoint.place(shard) + PARTIAL
            stage.copy(shard.path, copy, sorted((entry.start, entry.stop) for entry in entries))
            for done in filter(Future.done, jobs.values()):
                done.result()  # an error ends the copying too
            for entry in entries:
                jobs[entry.name] = pool.submit(_replace, checkpoint, stage, copy, entry, touched)
        copy_side_files(checkpoint.folder, stage, renamed)
        stage.write("config.json" + PARTIAL, (checkpoint.folder / "config.json").read_bytes())
        return {name: jobs[name].result() for name in sorted(jobs)}
    finally:
        pool.shutdown(cancel_futures=True)


def _replace(
    checkpoint: Checkpoint, stage: Staging, copy: str, entry: TensorEntry, touched: Actions
) -> TouchedTensor:
    """Write one transformed tensor to its place in the shard's copy."""
    action, sizes = touched[entry.name], checkpoint.architecture.slots()[entry.name].sizes
    words = checkpoint.words(action.source)
    image, error = rounded(entry.name, words, entry.storage, action.layout, sizes, action.elements)
    stage.overwrite(copy, entry.start, image.data.cast("B"))
    return TouchedTensor(
        before=checkpoint.tensor_hash(entry.name),
        after=hashlib.sha256(image.data).hexdigest(),
        dtype=entry.dtype,
        rounding_error=error,
    )


def copy_side_files(folder: Path, stage: Staging, renamed: Mapping[str, str | None]) -> None:
    for path in side_files(folder):
        own = str(path.relative_to(folder))
        if name := renamed.get(own, own):
            (stage.folder / name).parent.mkdir(exist_ok=True)
            stage.copy(path, name)


def side_files(folder: Path) -> Iterator[Path]:
    """Tokenizer, chat templates, generation config, index, licence: what stands beside the weights.

    One level deep, and the folder of further chat templates that tokenizers have.
    """
    others = {"config.json", MANIFEST, *_BEHIND}
    if (folder / SINGLE).exists():
        others.add(INDEX)  # of other shards, which transformers passes over
    for path in sorted(folder.iterdir()):
        weights = path.suffix in (*_WEIGHTS, PARTIAL) or ".bin.index" in path.name
        if path.is_file() and not weights and path.name not in others:
            yield path
    yield from sorted(path for path in folder.glob(f"{CHAT_TEMPLATES}/*.jinja") if path.is_file())


def left_out(checkpoint: Checkpoint) -> list[str]:
    """Names in the folder that `rewrite` does not carry over: other copies of the weights, folders."""
    kept = {path.relative_to(checkpoint.folder).as_posix() for path in side_files(checkpoint.folder)}
    kept |= {"config.json", MANIFEST, "scramble"}
    kept |= {checkpoint.place(shard) for shard in checkpoint.shards}
    parents = {parent.as_posix() for name in kept for parent in Path(name).parents}
    found = (path for name in parents for path in (checkpoint.folder / name).iterdir())
    names = (path.relative_to(checkpoint.folder).as_posix() for path in found)
    return sorted(name for name in names if name not in kept | parents)
