"""Folders that are no checkpoint, or more than one: what they are, and what makes a checkpoint of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scramble.errors import CheckpointError

ADAPTER = "adapter_config.json"
_MERGED = "merge it into its base (PEFT's merge_and_unload, then save_pretrained) and give that folder"
# What a folder holds, what it then is, and what to do: the first that fits.
_FORMS = (
    (
        "model_world_size_*_rank_*.pt",
        "FSDP shards of verl",
        "python -m verl.model_merger merge makes a model",
    ),
    (
        "actor/model_world_size_*_rank_*.pt",
        "a step of verl",
        "merge its actor/ (python -m verl.model_merger merge)",
    ),
    (
        "../model_world_size_*_rank_*.pt",
        "the config of verl's shards",
        "python -m verl.model_merger merge joins them",
    ),
    (
        "*.distcp",
        "FSDP shards (torch distributed checkpoint)",
        "accelerate merge-weights makes a model of them",
    ),
    ("pytorch_model_fsdp*/*.distcp", "FSDP shards", "accelerate merge-weights makes a model of them"),
    ("zero_to_fp32.py", "DeepSpeed shards", "python zero_to_fp32.py makes a model of them"),
    ("*_zero_pp_rank_*.pt", "DeepSpeed shards", "zero_to_fp32.py, a folder up, makes a model of them"),
    ("mp_rank_*", "Megatron shards", "convert them to a Hugging Face checkpoint"),
    ("latest_checkpointed_iteration.txt", "Megatron shards", "convert them to a Hugging Face checkpoint"),
    ("checkpoints/step-*/config.json", "a run folder", "give one of its checkpoints/step-*"),
    ("checkpoint-*/config.json", "a trainer's output folder", "give one of its checkpoint-*"),
    ("global_step_*/actor", "verl's output folder", "merge an actor/ (python -m verl.model_merger merge)"),
    ("*.gguf", "a GGUF model", "convert it to safetensors"),
    (
        "consolidated*",
        "weights in Meta's or Mistral's own format",
        "convert them to a Hugging Face checkpoint",
    ),
    ("*.msgpack", "Flax weights", "convert them to safetensors"),
    ("*.h5", "TensorFlow weights", "convert them to safetensors"),
)
# Files beside the weights that make loaders quantise them.
_QUANTISING = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")


def refuse_adapter(folder: Path) -> None:
    """Refuse an adapter, by itself or beside weights: loaders would compute with it.

    Raises:
        CheckpointError: the folder holds one.
    """
    found = [
        path.name
        for path in sorted(folder.glob("adapter_*"))
        if path.name.startswith((ADAPTER, "adapter_model."))
    ]
    if not found:
        return
    if not (folder / "config.json").exists():
        raise CheckpointError(f"{folder}: an adapter{_base_of(folder)}, not a model; {_MERGED}")
    raise CheckpointError(
        f"{folder}: holds an adapter ({found[0]}) beside its weights, so loaders compute something else than "
        f"they do; {_MERGED}, or move the adapter out"
    )


def refuse_other_form(folder: Path) -> None:
    """Refuse a folder of another form by what it is.

    Raises:
        CheckpointError: it is known.
    """
    for pattern, what, how in _FORMS:
        held = folder.parent.glob(pattern[3:]) if pattern.startswith("../") else folder.glob(pattern)
        if next(held, None) is not None:
            raise CheckpointError(f"{folder}: {what}, not a checkpoint with safetensors; {how}")


def quantising(folder: Path, config: dict[str, Any]) -> str | None:
    """What asks loaders to quantise the weights, if anything does."""
    if config.get("quantization_config"):
        return "quantization_config in config.json"
    return next((name for name in _QUANTISING if (folder / name).exists()), None)


def _base_of(folder: Path) -> str:
    try:
        base = json.loads((folder / ADAPTER).read_bytes())["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return f" for {base}" if isinstance(base, str) and "\n" not in base else ""
