"""What a mask leaves out keeps its bits, whatever the optimizer does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from scramble.checkpoints import open_checkpoint
from scramble.measures.geometry.mask_file import MaskFile, read_masks
from scramble.measures.geometry.masks import all_masks
from scramble.runs.engine.run import run
from scramble.runs.recipe.recipe import Recipe
from tests.conftest import Command
from tests.models import Tiny, weights, with_tokenizer
from tests.runs.conftest import ON_POLICY, assert_failed

pytestmark = pytest.mark.train
KINDS = {"principal": "principal", "complement": "complement", "low": "low_magnitude", "safe": "safe"}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw": {"name": "adamw", "learning_rate": 1e-2, "weight_decay": 0.1},
    "sgd": {"name": "sgd", "learning_rate": 0.1, "weight_decay": 0.1, "nesterov": True},
    "muon": {
        "name": "muon",
        "learning_rate": 1e-2,
        "adamw_learning_rate": 1e-2,
        "weight_decay": 0.1,
        "nesterov": False,
    },
}


@pytest.fixture
def masked(content: dict[str, Any]) -> Any:
    def recipe(mask: dict[str, Any], **changes: Any) -> Recipe:
        own = {"algorithm": {"name": "sft", "batch": 8}, "mask": mask, "steps": 3, "fp32_steps": [3]}
        return Recipe.model_validate(content | own | changes)

    return recipe


def expected(start: Path, kind: str, rank: int, alpha: float, seed: int = 0) -> dict[str, Any]:
    """By the definition, of every matrix that is no embedding."""
    return {
        name: all_masks(value.double().numpy(), min(rank, min(value.shape) // 2), [alpha], seed, name)[0][
            kind
        ]
        for name, value in weights(start).items()
        if value.ndim == 2 and not name.endswith(("embed_tokens.weight", "lm_head.weight"))
    }


def check(start: Path, end: Path, masks: dict[str, Any], others: bool) -> int:
    """Bits outside the masks are the start's, and inside nearly all move; how many are trained."""
    old, new, trained = weights(start), weights(end), 0
    for name, value in old.items():
        mask = torch.from_numpy(masks[name]) if name in masks else torch.full(value.shape, others)
        same = value.float().view(torch.int32) == new[name].view(torch.int32)
        assert same[~mask].all(), name
        if name in masks and mask.any():
            assert (~same[mask]).float().mean() > 0.8, name
        trained += int(mask.sum())
    return trained


@pytest.mark.parametrize("others", ["frozen", "trained"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_frozen_weights_keep_their_bits(
    optimizer: dict[str, Any], others: str, masked: Any, start: Path, tmp_path: Path
) -> None:
    mask = {"kind": "safe", "rank": 2, "alpha": 0.3, "others": others}
    folder = run(masked(mask, optimizer=optimizer), tmp_path, threads=1)
    found = expected(start, "safe", 2, 0.3)
    trained = check(start, folder.checkpoint(3, fp32=True), found, others == "trained")
    total = sum(value.numel() for value in weights(start).values())
    assert folder.record.content()["trainable"] == {"weights": trained, "of": total}
    moved = weights(folder.checkpoint(3, fp32=True))["model.embed_tokens.weight"]
    assert torch.equal(moved, weights(start)["model.embed_tokens.weight"].float()) == (others == "frozen")


def test_every_kind_is_its_definition(masked: Any, start: Path, tmp_path: Path) -> None:
    """Through training, so that the mask that is meant is the mask that is trained."""
    for kind, name in KINDS.items():
        folder = run(masked({"kind": kind, "rank": 3, "alpha": 0.4}), tmp_path, threads=1)
        check(start, folder.checkpoint(3, fp32=True), expected(start, name, 3, 0.4), others=False)


def test_random_is_as_sparse_as_safe_in_every_matrix(masked: Any, start: Path, tmp_path: Path) -> None:
    ends = []
    for seed in (1, 2):
        folder = run(masked({"kind": "random", "rank": 3, "alpha": 0.4, "seed": seed}), tmp_path, threads=1)
        random, safe = expected(start, "random", 3, 0.4, seed), expected(start, "safe", 3, 0.4)
        assert {name: mask.sum() for name, mask in random.items()} == {
            name: mask.sum() for name, mask in safe.items()
        }
        check(start, folder.checkpoint(3, fp32=True), random, others=False)
        assert folder.record.content()["seeds"]["mask"] == seed
        ends.append(folder.record.content()["end"]["hash"])
    assert ends[0] != ends[1]


def test_gradients_are_clipped_by_the_norm_of_what_is_trained(masked: Any, tmp_path: Path) -> None:
    """Under SGD without momentum, a clipped step has the length of the learning rate, mask or not."""
    optimizer = {"name": "sgd", "learning_rate": 0.01, "momentum": 0, "max_grad_norm": 0.1}
    mask = {"kind": "principal", "rank": 2, "alpha": 0.1}
    recipe = masked(mask, optimizer=optimizer, steps=1, fp32_steps=[1], match={"update_norm": 1e9})
    assert run(recipe, tmp_path, threads=1).record.end.update_norm == pytest.approx(1e-3, rel=1e-3)


def test_a_file_of_masks_is_trained_and_a_reward_too(
    masked: Any, start: Path, tmp_path: Path, command: Command
) -> None:
    path = tmp_path / "masks.safetensors"
    written = command(
        "principal", f"{start}:{start}", "--rank", 3, "--mask", "low_magnitude", "--write", path
    )
    assert written.code == 0
    mask = {"kind": "file", "path": str(path)}
    recipe = masked(mask, algorithm=ON_POLICY["grpo"])
    folder = run(recipe, tmp_path / "out", threads=1)
    check(start, folder.checkpoint(3, fp32=True), read_masks(path), others=False)
    moved = path.rename(tmp_path / "moved.safetensors")
    same = masked(mask | {"path": str(moved)}, algorithm=ON_POLICY["grpo"])
    assert run(same, tmp_path / "out", threads=1).path == folder.path


def test_a_file_that_does_not_fit_fails_the_run_in_one_line(
    content: dict[str, Any], start: Path, tmp_path: Path, command: Command
) -> None:
    other = with_tokenizer(
        Tiny("llama", 3, 2, 8, layers=2, tied=True, seed=9).save(tmp_path / "other", torch.bfloat16)
    )
    name = "model.layers.0.mlp.up_proj.weight"
    shape = tuple(weights(start)[name].shape)
    makers = {
        "made for another start": (name, shape, open_checkpoint(other).hash([name])),
        f"is {(shape[0], 3)}, the weight is {shape}": (name, (shape[0], 3), ""),
        "'nothing' is not in": ("nothing", shape, ""),
    }
    recipe = tmp_path / "recipe.yaml"
    for place_, (message, (tensor, size, digest)) in enumerate(makers.items()):
        file = MaskFile()
        file.add(tensor, np.ones(size, dtype=bool))
        path = tmp_path / f"{place_}.safetensors"
        file.write(path, {"start": digest})
        recipe.write_text(yaml.safe_dump(content | {"mask": {"kind": "file", "path": str(path)}}))
        found = command("run", recipe, "--out", tmp_path / f"out-{place_}")
        assert (found.code, found.out, found.err.count("\n")) == (2, "", 1)
        assert message in found.err
        assert_failed(tmp_path / f"out-{place_}", message)
    # A file that is not there cannot name the run; one that is not of masks can, by its content.
    for path, message in {tmp_path / "none": "", recipe: "not a file of masks"}.items():
        recipe.write_text(yaml.safe_dump(content | {"mask": {"kind": "file", "path": str(path)}}))
        found = command("run", recipe, "--out", tmp_path / "out")
        assert (found.code, found.out, found.err.count("\n")) == (2, "", 1)
        assert f"{path}: {message}" in found.err
        assert (tmp_path / "out").exists() == bool(message)
    assert_failed(tmp_path / "out", "not a file of masks")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": {"kind": "safe", "seed": 1}}, "mask.seed: unknown key"),
        ({"mask": {"kind": "safe", "alpha": 1.0}}, "mask.alpha"),
        ({"mask": {"kind": "best"}}, "mask"),
        ({"mask": {"kind": "safe"}, "adapter": {"name": "lora"}}, "give one of the two"),
        ({"match": {"update_norm": 1}, "adapter": {"name": "lora"}}, "which an adapter is not"),
        ({"adapter": {"name": "milora"}}, "adapter.name"),
        ({"collapse": {"kl_above": 1}}, "needs the section kl"),
        ({"collapse": {"reward_below": 0}, "algorithm": {"name": "sft"}}, "'sft' has no reward"),
    ],
)
def test_sections_that_cannot_be_are_refused_in_one_line(
    change: dict[str, Any], message: str, content: dict[str, Any], tmp_path: Path, command: Command
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content | change))
    found = command("run", path, "--out", tmp_path / "out")
    assert (found.code, found.out, found.err.count("\n")) == (2, "", 1)
    assert message in found.err
    assert not (tmp_path / "out").exists()
