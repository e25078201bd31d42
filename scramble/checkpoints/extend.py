"""A copy of a shard with room for further tensors behind its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from scramble.checkpoints.shard import Shard, TensorEntry, read_shard


def extend(shard: Shard, path: Path, added: Mapping[str, TensorEntry]) -> Shard:
    """Copy a shard to `path`, with tensors that have other names, and the dtypes and shapes of `added`.

    Their values are zero until they are overwritten.
    """
    header = json.loads(shard.header)
    data = 8 + len(shard.header)
    end = shard.size - data
    for name, like in added.items():
        stop = end + like.stop - like.start
        header[name] = {"dtype": like.dtype, "shape": like.shape, "data_offsets": [end, stop]}
        end = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with shard.path.open("rb") as reader, path.open("xb") as writer:
        reader.seek(data)
        writer.write(len(text).to_bytes(8, "little") + text)
        shutil.copyfileobj(reader, writer, 1 << 24)
        writer.truncate(8 + len(text) + end)
    return read_shard(path)
