"""Bad input: one line that says what and where, exit code 2, nothing written, the source as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from scramble import families
from scramble.architecture import Constraint
from scramble.families.rms_norm.qwen2 import QWEN2
from tests.conftest import Command
from tests.models import Tiny


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
