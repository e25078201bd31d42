"""Where a checkpoint is: a local folder, or a hub id `org/name[@revision]`."""

import os
import re
from pathlib import Path

from scramble.errors import CheckpointError, TargetError

_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
# Weights, configs and tokenizers: no pickle and no code. Folders and consolidated files hold second copies.
_WANTED = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "README.md", "LICENSE*"]
_UNWANTED = ["*/*", "consolidated*"]


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

    repo, revision = match["repo"], match["revision"]
    try:
        # It reads HF_HUB_OFFLINE, HF_ENDPOINT and the token itself, resumes where a connection broke, and
        # fetches no whole file twice.
        found = snapshot_download(repo, revision=revision, allow_patterns=_WANTED, ignore_patterns=_UNWANTED)
    except Exception as error:  # of its client too, whose classes have no common root
        raise CheckpointError(f"{model}: no such folder, and {_why(error, revision)}") from error
    return Path(found)


def _why(error: Exception, revision: str | None) -> str:
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, RevisionNotFoundError):
        return f"the hub's repository has no revision {revision}"
    if isinstance(error, GatedRepoError):
        return "the hub gives it only to those who were granted access (set HF_TOKEN)"
    if isinstance(error, RepositoryNotFoundError):
        return "the hub has no such repository (a private one needs HF_TOKEN)"
    if HF_HUB_OFFLINE and type(error) is LocalEntryNotFoundError:  # one of its children lists what is missing
        return "HF_HUB_OFFLINE is set and the cache does not hold it; unset it, or download it first"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"the hub did not give it ({lines[0]})"


def target_of(model: str | Path, out: str | Path | None, suffix: str) -> Path:
    """Where what is made of a model goes: `out`, or `NAME-suffix`.

    That is beside a folder as it was typed, link or not; of a hub id or a folder of a hub's cache, in the
    working folder.

    Raises:
        TargetError: the working folder lies in a hub's cache.
    """
    if out is not None:
        return Path(out)
    name = str(model).split("@")[0].rsplit("/", 1)[-1]
    if Path(model).is_dir():
        typed = Path(os.path.abspath(model))  # noqa: PTH100 - a link stays what was typed
        cached = _cached(typed.parent)
        if cached is None:
            return typed.with_name(f"{typed.name}-{suffix}")
        name = cached
    if _cached(Path.cwd()) is not None:
        raise TargetError(f"{Path.cwd()}: lies in a hub's cache, where nothing is written; give --out")
    return Path.cwd() / f"{name}-{suffix}"


def _cached(folder: Path) -> str | None:
    """The name of the repository in a hub's cache that a folder lies in, if it does."""
    found = [part for part in folder.resolve().parts if part.startswith("models--")]
    return found[0].split("--")[-1] if found else None
