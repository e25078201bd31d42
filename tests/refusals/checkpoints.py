"""Refusals of the commands that read and write checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save_file

from scramble.errors import (
    CheckpointError,
    ManifestError,
    MismatchError,
    SelectionError,
    SymmetryError,
    TargetError,
    UnknownFamilyError,
)
from tests.models import edit_config, weights
from tests.refusals.harness import Refusal, Usage, always
from tests.refusals.world import content, record

NOWHERE = (CheckpointError, ("nowhere",))
OTHER = (CheckpointError, ("notes", "config.json"))


def config(folder: str = "model", **changes: object) -> Callable[[Path], object]:
    return lambda world: edit_config(world / folder, **changes)


def gone(path: str) -> Callable[[Path], object]:
    return lambda world: (world / path).unlink()


def renamed(path: str, name: str) -> Callable[[Path], object]:
    return lambda world: (world / path).rename(world / name)


def replaced(old: bytes, new: bytes) -> Callable[[Path], object]:
    """Other bytes in the header of the model's shard."""

    def put(world: Path) -> None:
        path = world / "model" / "model.safetensors"
        path.write_bytes(path.read_bytes().replace(old, new))

    return put


def truncated(world: Path) -> None:
    path = world / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def with_value(value: float, name: str, folder: str = "model") -> Callable[[Path], object]:
    """One weight of a tensor is something else."""

    def put(world: Path) -> None:
        tensors = weights(world / folder)
        tensors[name].view(-1)[0] = value
        save_file(tensors, world / folder / "model.safetensors", metadata={"format": "pt"})

    return put


def indexed(shard: str, move: str | None = None) -> Callable[[Path], object]:
    """An index that names a shard, in place of the one shard, which is moved or taken away."""

    def put(world: Path) -> None:
        path = world / "model" / "model.safetensors"
        path.rename(world / move) if move else path.unlink()
        index = {"weight_map": {"model.norm.weight": shard}}
        (world / "model" / "model.safetensors.index.json").write_text(json.dumps(index))

    return put


WEIGHTS, SETTINGS = "model/model.safetensors", "model/config.json"
INFINITE = "model.layers.0.self_attn.v_proj.weight"
BAD_FOLDERS: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "unknown family": (config(model_type="mamba"), UnknownFamilyError, "model_type 'mamba'"),
    "no config": (gone(SETTINGS), CheckpointError, "config.json: missing"),
    "config not JSON": (content(SETTINGS, "{"), CheckpointError, "cannot be read as JSON"),
    "config without sizes": (
        content(SETTINGS, '{"model_type": "qwen2"}'),
        UnknownFamilyError,
        "config.json has no",
    ),
    "heads do not divide": (config(num_key_value_heads=3), UnknownFamilyError, "do not divide"),
    "wrong head count": (config(num_key_value_heads=4), UnknownFamilyError, "has shape"),
    "no weights": (gone(WEIGHTS), CheckpointError, "neither model.safetensors nor"),
    "truncated": (truncated, CheckpointError, "truncated"),
    "not safetensors": (content(WEIGHTS, "junk"), CheckpointError, "truncated, or not"),
    "header not JSON": (
        content(WEIGHTS, (4).to_bytes(8, "little") + b"junk"),
        CheckpointError,
        "header cannot be read",
    ),
    "index outside": (
        indexed("../outside.safetensors", "outside.safetensors"),
        CheckpointError,
        "'../outside.safetensors', which is not a safetensors file of the folder",
    ),
    "missing shard": (indexed("model-00001-of-00001.safetensors"), CheckpointError, "the shard is missing"),
    "pickle only": (
        renamed(WEIGHTS, "model/pytorch_model.bin"),
        CheckpointError,
        "pickled weights (pytorch_model.bin)",
    ),
    "unknown tensor": (
        replaced(b"q_proj.weight", b"x_proj.weight"),
        UnknownFamilyError,
        "q_proj.weight' is in the family's table but not in the checkpoint",
    ),
    "not a float": (replaced(b'"BF16"', b'"U16" '), CheckpointError, "is stored as U16"),
    "infinite weight": (with_value(float("inf"), INFINITE), CheckpointError, "infinite or NaN"),
    "weights elsewhere": (
        config(transformers_weights="other.safetensors"),
        CheckpointError,
        "transformers_weights makes transformers load other.safetensors",
    ),
    "layers as text": (
        config(num_hidden_layers="2"),
        UnknownFamilyError,
        "no usable size for the axes {'layers'",
    ),
    "heads as text": (
        config(num_attention_heads="4"),
        UnknownFamilyError,
        "holds a value that cannot be read",
    ),
    "no layers": (
        config(num_hidden_layers=None),
        UnknownFamilyError,
        "no usable size for the axes {'layers'",
    ),
    "a family that is a list": (config(model_type=[]), UnknownFamilyError, "model_type"),
}
APPLY = "apply model --no-verify --quiet --layers"
ARGUMENTS: dict[str, tuple[str, type[Exception], str]] = {
    "a layer too many": (f"{APPLY} 2", SelectionError, "outside this model's layers 0 to 1"),
    "no number": (f"{APPLY} x", SelectionError, "'x' is not a layer"),
    "no layers": ("apply model --no-verify", SelectionError, "no layers"),
    "unknown symmetry": (
        f"{APPLY} 0 --symmetry vo",
        SymmetryError,
        "no symmetry named 'vo'; there are: vo-rotation",
    ),
    "unknown option of a symmetry": (
        f"{APPLY} 0 --symmetry vo-rotation:color=red",
        SymmetryError,
        "option 'color'",
    ),
    "option of a symmetry": (
        f"{APPLY} 0 --symmetry vo-rotation:shared=maybe",
        SymmetryError,
        "option 'shared'",
    ),
    "hash": (f"{APPLY} 0 --hash some", SelectionError, "touched or full"),
    "device": (f"{APPLY} 0 --device nonsense", SelectionError, "--device nonsense"),
    "no folder to write in": (f"{APPLY} 0 --out no/out", TargetError, "no such folder to write out in"),
    "a target that is there": (f"{APPLY} 0 --out end", TargetError, "exists already"),
    "a target that is no checkpoint": (
        f"{APPLY} 0 --out notes --force",
        TargetError,
        "checkpoint folders only",
    ),
    "the source as the target": (
        f"{APPLY} 0 --out model --force",
        TargetError,
        "holds or lies in the source",
    ),
    "a target in the source": (
        f"{APPLY} 0 --out model/inside --force",
        TargetError,
        "holds or lies in the source",
    ),
    "a target around the source": (f"{APPLY} 0 --out . --force", TargetError, "holds or lies in the source"),
    "the same draw twice": (
        "apply start --layers 0 --quiet",
        SymmetryError,
        "drawn with seed 0 before; use another --seed",
    ),
    "a base that is not folded": (
        "apply model --symmetry residual-rotation --quiet",
        SymmetryError,
        "fold",
    ),
    "folded already": ("fold folded", SymmetryError, "has a scramble.json"),
    "scrambled before it is folded": ("fold start", SymmetryError, "has a scramble.json"),
    "a fold": ("invert folded", ManifestError, "folding is not undone"),
    "nothing to undo": (
        "invert model --manifest start",
        ManifestError,
        "in the base's frame already",
    ),
    "no manifest": ("invert moved", ManifestError, "give the folder of a scrambled checkpoint"),
    "a manifest of other axes": ("invert other --manifest start", ManifestError, "model's axes are"),
    "a manifest that is a file": (
        "invert moved --manifest start/scramble.json",
        ManifestError,
        "scramble.json",
    ),
    "another width": ("verify model other", MismatchError, "'hidden_size' differs"),
    "another depth": ("verify model short", MismatchError, "'layer_types' differs"),
    "no prompts": ("verify model start --prompts no.txt", SelectionError, "no.txt: cannot be read"),
}
KINDS = {
    "an adapter for org/base": (
        ["adapter_config.json", "adapter_model.safetensors"],
        "merge it into its base",
    ),
    "FSDP shards of verl": (
        ["model_world_size_2_rank_0.pt", "huggingface/config.json", "fsdp_config.json"],
        "verl.model_merger",
    ),
    "a step of verl": (["actor/model_world_size_2_rank_0.pt", "data.pt"], "verl.model_merger"),
    "verl's output folder": (["global_step_30/actor/model_world_size_2_rank_0.pt"], "verl.model_merger"),
    "FSDP shards": (["pytorch_model_fsdp_0/__0_0.distcp", "trainer_state.json"], "accelerate merge-weights"),
    "FSDP shards (torch distributed checkpoint)": (["__0_0.distcp", ".metadata"], "accelerate merge-weights"),
    "DeepSpeed shards": (["zero_to_fp32.py", "latest", "config.json"], "zero_to_fp32.py"),
    "Megatron shards": (["latest_checkpointed_iteration.txt"], "convert them"),
    "a run folder": (["run.json", "checkpoints/step-20/config.json"], "one of its checkpoints/step-*"),
    "a trainer's output folder": (["checkpoint-20/config.json"], "give one of its checkpoint-*"),
    "a GGUF model": (["model-q4.gguf"], "convert it to safetensors"),
}
ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
READERS = (
    "apply model --layers 0",
    "fold model",
    "verify end model",
    "verify model end",
    "inspect model",
    "diff end:model",
    "spectra model:end",
    "gates end:model --prompts text.txt",
)


def _of_kind(files: list[str]) -> Callable[[Path], object]:
    def put(world: Path) -> None:
        for name in files:
            content(f"foreign/{name}", '{"base_model_name_or_path": "org/base"}')(world)

    return put


def _verls_config(world: Path) -> None:
    content("actor/huggingface/config.json", "{}")(world)
    content("actor/model_world_size_2_rank_1.pt", "")(world)


def _linked_out(world: Path) -> None:
    indexed("sub/model.safetensors", "moved.safetensors")(world)
    (world / "elsewhere").mkdir()
    (world / "moved.safetensors").rename(world / "elsewhere" / "model.safetensors")
    (world / "model" / "sub").symlink_to(world / "elsewhere")


def _no_element(world: Path) -> None:
    path = world / "start" / "scramble.json"
    path.write_text(path.read_text().replace('"key": "0.0.', '"key": "9.9.', 1))


ADAPTER = '{"peft_type": "LORA", "base_model_name_or_path": "org/base"}'
REFUSALS = [
    *always("apply {} --layers 0", NOWHERE, OTHER),
    *always("fold {}", NOWHERE, OTHER),
    *always("invert {}", NOWHERE, OTHER),
    *always("verify model {}", NOWHERE, OTHER),
    *always("verify {} model", NOWHERE, OTHER),
    *always("inspect {}", NOWHERE, OTHER),
    *always("inspect {}", NOWHERE, OTHER, lost="./nowhere"),
    *always("inspect {}", (CheckpointError, ("no/nowhere",)), OTHER, lost="no/nowhere"),
    Refusal("rows", "verify model start --by row", Usage, ("'--by'", "row")),
    Refusal("seed", "apply model --seed one", Usage, ("'--seed'",)),
    *(Refusal(name, f"{APPLY} 0", error, (says,), make) for name, (make, error, says) in BAD_FOLDERS.items()),
    *(Refusal(name, line, error, (says,)) for name, (line, error, says) in ARGUMENTS.items()),
    *(
        Refusal(kind, line, CheckpointError, (f"foreign: {kind}, not a", how), _of_kind(files))
        for kind, (files, how) in KINDS.items()
        for line in ("diff model:foreign", "apply foreign --layers 0", "verify model foreign")
    ),
    *(
        Refusal(
            f"{file} beside the weights",
            line,
            CheckpointError,
            (f"holds an adapter ({file}) beside its weights", "merge it"),
            content(f"model/{file}", ADAPTER),
        )
        for file in ADAPTERS
        for line in READERS
    ),
    Refusal(
        "verl's config", "inspect actor/huggingface", CheckpointError, ("verl.model_merger",), _verls_config
    ),
    Refusal(
        "a shard by a link",
        "inspect model",
        CheckpointError,
        ("which is not a safetensors file of the folder",),
        _linked_out,
    ),
    *(
        Refusal(f"a damaged manifest: {name}", "invert start", ManifestError, (says,), make)
        for name, says, make in (
            ("unknown key", "scramble.json", record("start/scramble.json", famly="qwen2")),
            ("cut", "scramble.json", content("start/scramble.json", "{")),
            ("no element", "no element", _no_element),
        )
    ),
    Refusal(
        "a manifest of another family",
        "verify model start",
        ManifestError,
        ("is of a gpt2 model, not of qwen2",),
        record("start/scramble.json", family="gpt2"),
    ),
    Refusal(
        "another config",
        "verify model start",
        MismatchError,
        ("'rms_norm_eps' differs",),
        config("start", rms_norm_eps=0.5),
    ),
    *(
        Refusal(
            f"positions on a part of the channels ({factor})",
            f"{APPLY} 0 --symmetry qk-rotation",
            UnknownFamilyError,
            ("a part of",),
            config(
                rope_parameters={"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": factor}
            ),
        )
        for factor in (0.5, "a")
    ),
]
