"""Where a checkpoint is: a local folder, or a hub id `org/name[@revision]`."""

import re
from pathlib import Path

from scramble.errors import CheckpointError

_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
_WANTED = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]


def locate(model: str | Path) -> Path:
    """The folder of a model, downloaded through huggingface_hub if it is not local.

    Raises:
        CheckpointError: neither a folder nor a hub id that can be fetched.
    """
    if Path(model).is_dir():
        return Path(model).resolve()
    match = _HUB_ID.fullmatch(str(model))
    if match is None or str(model).startswith("."):
        raise CheckpointError(f"{model}: no such folder, and not a hub id (org/name@revision)")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(match["repo"], revision=match["revision"], allow_patterns=_WANTED)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        first = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{model}: no such folder, and the hub did not give it ({first})") from None
    return Path(found)


def target_of(model: str | Path, out: str | Path | None, suffix: str) -> Path:
    """Where what is made of a model goes: `out`, or `NAME-suffix`.

    That is beside a folder; of a hub id, in the working folder.
    """
    if out is not None:
        return Path(out)
    if Path(model).is_dir():
        source = Path(model).resolve()
        return source.with_name(f"{source.name}-{suffix}")
    return Path.cwd() / f"{str(model).split('@')[0].rsplit('/', 1)[-1]}-{suffix}"
