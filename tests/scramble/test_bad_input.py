"""Bad input: one line that says what and where, exit code 2, nothing written, the source as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from scramble import families
from scramble.architecture import Constraint
from scramble.families.rms_norm.qwen2 import QWEN2
from tests.conftest import Command
from tests.models import Tiny, digest, edit_config, weights


def drop(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def index_outside(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    index = {"weight_map": {"model.norm.weight": "../outside.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def index_missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def rename_tensor(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b"q_proj.weight", b"x_proj.weight"))


def integers(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"BF16"', b'"U16" '))


def infinity(folder: Path) -> None:
    from safetensors.torch import save_file

    tensors = weights(folder)
    tensors["model.layers.0.self_attn.v_proj.weight"][0, 0] = float("inf")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


BAD_FOLDERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "unknown family": (lambda f: edit_config(f, model_type="mamba"), "model_type 'mamba'"),
    "no config": (drop("config.json"), "config.json: missing"),
    "config not JSON": (lambda f: (f / "config.json").write_text("{"), "cannot be read as JSON"),
    "config without sizes": (
        lambda f: (f / "config.json").write_text('{"model_type": "qwen2"}'),
        "config.json has no",
    ),
    "heads do not divide": (lambda f: edit_config(f, num_key_value_heads=3), "do not divide"),
    "wrong head count": (lambda f: edit_config(f, num_key_value_heads=4), "has shape"),
    "no weights": (drop("model.safetensors"), "neither model.safetensors nor"),
    "truncated": (truncate, "truncated"),
    "not safetensors": (lambda f: (f / "model.safetensors").write_bytes(b"junk"), "truncated, or not"),
    "header not JSON": (
        lambda f: (f / "model.safetensors").write_bytes((4).to_bytes(8, "little") + b"junk"),
        "header cannot be read",
    ),
    "index outside": (
        index_outside,
        "'../outside.safetensors', which is not a safetensors file of the folder",
    ),
    "missing shard": (index_missing_shard, "the shard is missing"),
    "pickle only": (only_pickle, "pickled weights (pytorch_model.bin)"),
    "unknown tensor": (rename_tensor, "q_proj.weight' is in the family's table but not in the checkpoint"),
    "not a float": (integers, "is stored as U16"),
    "infinite weight": (infinity, "infinite or NaN"),
}


@pytest.mark.parametrize(("damage", "message"), BAD_FOLDERS.values(), ids=BAD_FOLDERS)
def test_a_bad_folder_is_one_line_and_nothing_written(
    damage: Callable[[Path], None], message: str, checkpoint: Path, command: Command
) -> None:
    damage(checkpoint)
    before, around = digest(checkpoint), sorted(checkpoint.parent.iterdir())
    found = command("apply", checkpoint, "--layers", 0, "--no-verify", "--quiet")
    assert (found.code, found.out, found.err.count("\n")) == (2, "", 1)
    assert message in found.err
    assert sorted(checkpoint.parent.iterdir()) == around
    assert digest(checkpoint) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers", "2"], "outside this model's layers 0 to 1"),
        (["--layers", "x"], "'x' is not a layer"),
        ([], "no layers"),
        (["--layers", "0", "--symmetry", "vo"], "no symmetry named 'vo'; there are: vo-rotation"),
        (["--layers", "0", "--symmetry", "vo-rotation:color=red"], "option 'color'"),
        (["--layers", "0", "--symmetry", "vo-rotation:shared=maybe"], "option 'shared'"),
        (["--layers", "0", "--hash", "some"], "touched or full"),
        (["--layers", "0", "--out", "/nonexistent/out"], "no such folder to write out in"),
    ],
)
def test_bad_arguments_are_one_line(
    arguments: list[str], message: str, checkpoint: Path, command: Command
) -> None:
    found = command("apply", checkpoint, "--no-verify", *arguments)
    assert (found.code, found.out, found.err.count("\n")) == (2, "", 1)
    assert message in found.err
    assert [path.name for path in checkpoint.parent.iterdir()] == ["model"]


def test_a_trivial_group_is_refused(tmp_path: Path, command: Command) -> None:
    single = Tiny("llama", kv_heads=1, group=1, head_dim=4, layers=1).save(
        tmp_path / "single", torch.bfloat16
    )
    found = command("apply", single, "--layers", 0)
    assert found.code == 2
    assert "nothing to permute: 1 KV head(s)" in found.err
    assert command("inspect", single, "--format", "json").json["rows"][1]["applies"] is False


@pytest.mark.parametrize(
    ("constraint", "symmetry"),
    [(Constraint("gate", "v", "a gate multiplies the values"), "vo-rotation"),
     (Constraint("alibi", "kv_head", "ALiBi slopes"), "head-permutation")],
)  # fmt: skip
def test_a_constraint_forbids_and_gives_its_reason(
    constraint: Constraint, symmetry: str, checkpoint: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    monkeypatch.setitem(
        families.FAMILIES, "qwen2", replace(QWEN2, constraints=lambda config, layer: (constraint,))
    )
    found = command("apply", checkpoint, "--layers", 0, "--symmetry", symmetry)
    assert found.code == 2
    assert constraint.note in found.err
    reasons = {
        row["symmetry"]: row["reason"]
        for row in command("inspect", checkpoint, "--format", "json").json["rows"]
    }
    assert constraint.note in reasons[symmetry]
    others = {name for name, reason in reasons.items() if reason and name != symmetry}
    assert others == {"expert-permutation", "residual-rotation"}  # a dense model, not folded


@pytest.mark.parametrize(
    "changes",
    [
        {"num_attention_heads": "4"},
        {"num_hidden_layers": None},
        {"num_hidden_layers": "2"},
        {"model_type": []},
    ],
)
def test_config_values_of_the_wrong_type_are_refused(
    changes: dict[str, object], checkpoint: Path, command: Command
) -> None:
    edit_config(checkpoint, **changes)
    found = command("inspect", checkpoint)
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert "bug" not in found.err


@pytest.mark.parametrize("parameters", [{"partial_rotary_factor": 0.5}, {"partial_rotary_factor": "a"}])
def test_positions_on_a_part_of_the_channels_are_refused_where_a_family_has_none(
    parameters: dict[str, object], checkpoint: Path, command: Command
) -> None:
    edit_config(checkpoint, rope_parameters={"rope_theta": 1e4, "rope_type": "default", **parameters})
    found = command("apply", checkpoint, "--layers", 0, "--symmetry", "qk-rotation", "--no-verify")
    assert found.code == 2
    assert "a part of" in found.err


def test_what_a_scramble_leaves_as_it_is_may_be_touched_again(tmp_path: Path) -> None:
    """Gains of one and biases of zero are undone by nothing."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from scramble.operations.apply import apply
    from tests.models import Tiny

    config = AutoConfig.for_model("qwen2", **Tiny("qwen2", 2, 2, 8, layers=1).config)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    for place, names in enumerate((("vo-rotation",), ("residual-permutation",))):
        layers = None if place else "0"
        one, two = tmp_path / f"one{place}", tmp_path / f"two{place}"
        apply(tmp_path / "base", one, layers=layers, symmetries=names, check=False)
        apply(one, two, layers=layers, symmetries=names, seed=1, check=False)


def test_a_manifest_that_contradicts_itself_verifies_nothing(checkpoint: Path, command: Command) -> None:
    out = checkpoint.with_name("out")
    command("apply", checkpoint, "--layers", 0, "--out", out, "--no-verify")
    manifest = json.loads((out / "scramble.json").read_text())
    for change in ({"family": "gpt2"}, {"scrambles": [manifest["scrambles"][0] | {"tensors": {}}]}):
        (out / "scramble.json").write_text(json.dumps(manifest | change))
        assert command("verify", checkpoint, out).code == 2
