"""The Python API mirrors the commands and costs nothing to import; tests/docs runs its examples."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import scramble
from scramble.errors import ManifestError, MismatchError, SelectionError
from scramble.symmetries import Rotation, act
from scramble.symmetries.draws import haar
from scramble.symmetries.products import products_on
from scramble.transforms.card import BASE_CARD, CARD
from tests.conftest import Command
from tests.models import Tiny, weights


def test_importing_the_package_loads_nothing() -> None:
    script = (
        "import sys, scramble\nassert not {'numpy', 'torch', 'pydantic'} & set(sys.modules)\n"
        "assert callable(scramble.apply) and scramble.apply.__name__ == 'apply'\n"
        "import scramble.operations.apply\nassert callable(scramble.apply)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_functions_are_those_of_the_commands() -> None:
    from scramble.cli.app import app

    commands = {command.callback.__name__ for command in app.registered_commands if command.callback}
    assert {"apply", "invert", "fold", "verify"} <= commands & set(dir(scramble))
    with pytest.raises(AttributeError, match="no attribute"):
        _ = scramble.nonsense


def test_compose_agrees_with_what_was_written_and_runs_backwards(tmp_path: Path) -> None:
    base = Tiny("mixtral", 2, 2, 8, layers=2).save(tmp_path / "base")
    asked = ("vo-rotation", "head-permutation", "expert-permutation", "neuron-permutation")
    scramble.apply(base, tmp_path / "one", layers="all", symmetries=asked, check=False)
    scramble.apply(base, tmp_path / "two", layers="0", symmetries=asked, seed=1, check=False)
    there, old, new = scramble.compose(tmp_path / "one"), weights(base), weights(tmp_path / "one")
    for name, image in there(old).items():
        np.testing.assert_allclose(image, new[name].numpy(), rtol=0, atol=1e-13)
    for name, image in there.inverse()(new).items():
        np.testing.assert_allclose(image, old[name].numpy(), rtol=0, atol=1e-13)
    both = scramble.compose(tmp_path / "one", tmp_path / "two")
    expected = scramble.compose(tmp_path / "two")(there(old))
    for name, image in both(old).items():
        np.testing.assert_allclose(image, expected[name], rtol=0, atol=1e-13)


def test_compose_refuses_what_it_cannot_map(tmp_path: Path) -> None:
    base = Tiny("mixtral", 2, 2, 8, layers=1).save(tmp_path / "base")
    scramble.apply(base, tmp_path / "out", layers="0", symmetries=("expert-permutation",), check=False)
    other = Tiny("llama", 2, 2, 8, layers=1).save(tmp_path / "llama")
    scramble.apply(other, tmp_path / "other", layers="0", check=False)
    transform, old = scramble.compose(tmp_path / "out"), weights(base)
    moved = next(name for name, image in transform(old).items() if not np.array_equal(image, old[name]))
    with pytest.raises(MismatchError, match="made of"):
        transform({moved: old[moved]} if "experts" in moved else {})
    with pytest.raises(MismatchError, match=r"gate\.weight"):
        transform({"model.layers.0.block_sparse_moe.gate.weight": np.zeros((2, 2))})
    with pytest.raises(MismatchError, match="different architectures"):
        scramble.compose(tmp_path / "out", tmp_path / "other")
    with pytest.raises(ManifestError, match="at least one"):
        scramble.compose()
    with pytest.raises(ManifestError, match="missing"):
        scramble.compose(base)


def test_the_card_names_base_symmetries_seed_and_verdict(tmp_path: Path) -> None:
    base = Tiny("qwen2", 2, 2, 8, layers=2).save(tmp_path / "base", torch.bfloat16)
    (base / CARD).write_text("the base's own card")
    scramble.apply(base, tmp_path / "out", layers="1", seed=5)
    card = (tmp_path / "out" / CARD).read_text()
    for part in ("`base`", "| vo-rotation | layer 1 | O(8)^2 | 5 | equivalent", "- scramble", "noise floor"):
        assert part in card
    assert (tmp_path / "out" / BASE_CARD).read_text() == "the base's own card"
    scramble.apply(
        tmp_path / "out", tmp_path / "more", symmetries=("residual-permutation",), check=False, seed=6
    )
    card = (tmp_path / "more" / CARD).read_text()
    assert "| residual-permutation | whole model |" in card
    assert "not verified" in card
    assert "layer 1" in card
    assert (tmp_path / "more" / BASE_CARD).read_text() == "the base's own card"
    scramble.invert(tmp_path / "more", tmp_path / "back")
    assert (tmp_path / "back" / CARD).read_text() == "the base's own card"
    assert not (tmp_path / "back" / BASE_CARD).exists()


def test_verify_prints_layers_and_runs_on_text(checkpoint: Path, tmp_path: Path, command: Command) -> None:
    from tests.models import with_tokenizer

    with_tokenizer(checkpoint)
    command("apply", "--layers", "1", checkpoint, "--out", tmp_path / "out")
    rows = command("verify", checkpoint, tmp_path / "out", "--by", "layer", "--format", "json").json["rows"]
    assert [row["layer"] for row in rows] == [0, 1]
    assert rows[0]["storage"] == 0 < rows[1]["storage"]
    assert rows[1]["algebra"] < 1e-12
    (tmp_path / "text").write_text("1+2=3\n" * 20)
    found = command(
        "verify", checkpoint, tmp_path / "out", "--prompts", tmp_path / "text", "--format", "json"
    )
    assert found.code == 0
    assert found.json["meta"]["tokens"] == 96  # 120 characters in sequences of 32
    assert {"kl", "top1_agreement", "noise_floor", "floor_ratio"} <= found.json["meta"].keys()
    assert "layers" not in json.dumps(found.json["meta"])


def test_products_on_a_torch_device_agree_with_numpy() -> None:
    rng = np.random.default_rng(0)
    rotation = Rotation("v", ("kv_head",), np.stack([haar(6, rng) for _ in range(3)]))
    from scramble.architecture.axes import parse

    layout, sizes = parse("hidden (kv_head group v)"), {"kv_head": 3, "group": 2, "v": 6, "hidden": 5}
    values = rng.standard_normal((5, 36))
    with products_on("cpu"):
        found = act(values, layout, sizes, [rotation])
    np.testing.assert_allclose(found, act(values, layout, sizes, [rotation]), rtol=0, atol=1e-14)
    assert np.abs(found - values).max() > 0.1


def test_a_device_that_is_not_there_is_refused(checkpoint: Path, tmp_path: Path, command: Command) -> None:
    with pytest.raises(SelectionError, match="cuda"):
        scramble.apply(checkpoint, tmp_path / "out", layers="0", device="cuda:99", check=False)
    assert command("apply", "--layers", 0, checkpoint, "--device", "nonsense").code == 2
    assert not (tmp_path / "out").exists()
