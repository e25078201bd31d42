"""`verify` catches what is not a symmetry: exit code 1, and `apply` writes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from scramble import families
from scramble.families.rms_norm.qwen2 import QWEN2
from scramble.operations.apply import apply
from tests.conftest import Command
from tests.models import Tiny, edit_config, weights

PREFIX = "model.layers.1.self_attn."
# Each is a mistake that was found in a peer: the table is bent so that a tensor does not move as it must.
BROKEN = {
    "value bias forgotten": {"self_attn.v_proj.bias": "(still_kv_head still_v)"},
    "group order": {"self_attn.o_proj.weight": "hidden (group kv_head v)"},
    "query heads stay": {"self_attn.q_proj.weight": "(still_kv_head still_group qk) hidden"},
    "query bias stays": {"self_attn.q_proj.bias": "(still_kv_head still_group qk)"},
    "output projection stays": {"self_attn.o_proj.weight": "hidden (still_kv_head still_group still_v)"},
}


@contextmanager
def broken(changes: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def sizes(config: families.family.Config, layer: int | None = None) -> dict[str, int]:
        right = dict(QWEN2.sizes(config, layer))
        return right | {f"still_{name}": right[name] for name in ("kv_head", "group", "v")}

    bent = replace(QWEN2, sizes=sizes, table=lambda config, layer: {**QWEN2.table(config, layer), **changes})
    with monkeypatch.context() as patch:
        patch.setitem(families.FAMILIES, "qwen2", bent)
        yield


@pytest.mark.parametrize("changes", BROKEN.values(), ids=BROKEN)
def test_a_broken_transform_is_caught(
    changes: dict[str, str], checkpoint: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = checkpoint.with_name("bad")
    with broken(changes, monkeypatch):
        refused = command("apply", checkpoint, "--layers", "all", "--out", target)
        assert refused.code == 1
        assert "not equivalent" in refused.err
        assert [path.name for path in checkpoint.parent.iterdir()] == ["model"]
        assert command("apply", checkpoint, "--layers", "all", "--out", target, "--no-verify").code == 0
        inside = command("verify", checkpoint, target, "--format", "json")
        assert inside.code == 1
        assert not inside.json["rows"][0]["passed"]
    # With the right table the stored elements are sound, but the stored weights are not.
    outside = command("verify", checkpoint, target, "--format", "json")
    assert outside.code == 1
    passed = {row["check"]: row["passed"] for row in outside.json["rows"]}
    assert (passed["algebra"], passed["weights_off"]) == (True, False)


def test_a_sound_transform_passes_both_checks(checkpoint: Path, command: Command) -> None:
    target = checkpoint.with_name("good")
    assert command("apply", checkpoint, "--layers", "all", "--out", target).code == 0
    found = command("verify", checkpoint, target, "--format", "json")
    assert found.code == 0
    assert {row["check"]: row["passed"] for row in found.json["rows"]} == {
        "algebra": True,
        "weights_off": True,
        "storage": True,
    }
    assert found.json["meta"]["verdict"] == "equivalent"
    assert found.json["meta"]["algebra_error"] < 1e-6 < found.json["meta"]["noise_floor"]


def test_without_a_manifest_only_storage_is_checked_and_it_says_so(
    checkpoint: Path, command: Command
) -> None:
    target = checkpoint.with_name("good")
    apply(checkpoint, target, layers="all")
    (target / "scramble.json").unlink()
    found = command("verify", checkpoint, target, "--format", "json")
    assert found.code == 0
    assert [row["check"] for row in found.json["rows"]] == ["storage"]
    assert "could not be checked" in found.json["meta"]["note"]


def test_stacked_scrambles_verify_from_any_stage(checkpoint: Path, command: Command) -> None:
    one, two = checkpoint.with_name("one"), checkpoint.with_name("two")
    apply(checkpoint, one, layers="0")
    apply(one, two, layers="all", symmetries=("vo-rotation",), seed=1)
    for base in (checkpoint, one):
        found = command("verify", base, two, "--format", "json")
        assert found.code == 0
        assert len(found.json["rows"]) == 3


@pytest.mark.parametrize(
    "name", [PREFIX + "v_proj.bias", "model.layers.0.mlp.down_proj.weight", "model.norm.weight"]
)
def test_one_weight_that_is_off_is_caught(name: str, checkpoint: Path, command: Command) -> None:
    from safetensors.torch import save_file

    target = checkpoint.with_name("changed")
    apply(checkpoint, target, layers="all")
    tensors = weights(target)
    words = tensors[name].view(torch.int16).view(-1)
    words[3] += 1
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    assert command("verify", checkpoint, target).code == 1


def test_what_cannot_be_compared_exits_2(checkpoint: Path, tmp_path: Path, command: Command) -> None:
    other = Tiny("qwen2", kv_heads=1, group=2, head_dim=8, layers=2).save(tmp_path / "other", torch.bfloat16)
    found = command("verify", checkpoint, other)
    assert found.code == 2
    assert "'hidden_size' differs" in found.err
    assert command("verify", checkpoint, tmp_path / "none").code == 2
    apply(checkpoint, tmp_path / "good", layers="0")
    edit_config(tmp_path / "good", model_type="nonesuch")
    edit_config(checkpoint, model_type="nonesuch")
    found = command("verify", checkpoint, tmp_path / "good")
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert "nonesuch" in found.err


def test_another_config_is_another_function(checkpoint: Path, command: Command) -> None:
    target = checkpoint.with_name("good")
    apply(checkpoint, target, layers="all")
    edit_config(target, rms_norm_eps=0.5)
    found = command("verify", checkpoint, target)
    assert found.code == 2
    assert "'rms_norm_eps' differs" in found.err


@pytest.mark.parametrize("share", [0.02, 0.2])
def test_a_sparse_update_of_one_ulp_is_not_taken_for_rounding(
    share: float, checkpoint: Path, tmp_path: Path, command: Command
) -> None:
    from safetensors.torch import save_file

    tensors = weights(checkpoint)
    generator = torch.Generator().manual_seed(0)
    for name in tensors:
        moved = torch.rand(tensors[name].shape, generator=generator) < share
        tensors[name] = (tensors[name].view(torch.int16) + moved.to(torch.int16)).view(torch.bfloat16)
    trained = tmp_path / "trained"
    trained.mkdir()
    save_file(tensors, trained / "model.safetensors", metadata={"format": "pt"})
    (trained / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    assert command("verify", checkpoint, trained).code == 1


def test_zeros_that_are_no_longer_zero_are_caught(checkpoint: Path, tmp_path: Path, command: Command) -> None:
    from safetensors.torch import save_file

    name = PREFIX + "v_proj.weight"
    tensors = weights(checkpoint)
    tensors[name][:, ::2] = 0
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    apply(checkpoint, tmp_path / "out", layers="1")
    tensors = weights(tmp_path / "out")
    assert (tensors[name] == 0).any()
    tensors[name][tensors[name] == 0] = 1.5e-3
    save_file(tensors, tmp_path / "out" / "model.safetensors", metadata={"format": "pt"})
    assert command("verify", checkpoint, tmp_path / "out").code == 1


def test_a_config_that_transformers_refuses_is_could_not_tell(checkpoint: Path, command: Command) -> None:
    target = checkpoint.with_name("good")
    apply(checkpoint, target, layers="all")
    for folder in (checkpoint, target):
        edit_config(folder, hidden_act=5)
    found = command("verify", checkpoint, target)
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert "cannot build this model" in found.err


def test_a_model_too_large_for_float64_is_verified_in_float32_and_one_too_large_for_that_is_not(
    checkpoint: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil

    weights_ = sum(value.numel() for value in weights(checkpoint).values())
    target = checkpoint.with_name("good")
    apply(checkpoint, target, layers="all", check=False)

    class Memory:
        available = int(1.3 * weights_ * 6)

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    found = command("verify", checkpoint, target, "--format", "json")
    assert (found.code, found.json["meta"]["arithmetic"]) == (0, "float32")
    assert 0 < found.json["meta"]["algebra_error"] < found.json["meta"]["algebra_bound"] == 1e-4
    Memory.available = weights_
    found = command("verify", checkpoint, target)
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert "--no-verify" in found.err
