"""`apply` on disk: what is kept, what is refused, and what an interruption leaves."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from scramble import families
from scramble.apply import apply
from scramble.checkpoints import Staging, open_checkpoint
from scramble.errors import CheckpointError, ScrambleError
from scramble.families import Constraint
from scramble.families.qwen2 import QWEN2
from scramble.invert import invert
from scramble.manifest import read_manifest
from tests.conftest import Command
from tests.models import Tiny, edit_config, logits, weights


def digest(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        found.update(str(path.relative_to(folder)).encode() + (path.read_bytes() if path.is_file() else b""))
    return found.hexdigest()


def test_names_shapes_dtypes_and_headers_stay(checkpoint: Path, tmp_path: Path) -> None:
    apply(checkpoint, tmp_path / "out", layers="1")
    one, two = open_checkpoint(checkpoint), open_checkpoint(tmp_path / "out")
    assert one.shards[0].header == two.shards[0].header
    assert (tmp_path / "out" / "config.json").read_bytes() == (checkpoint / "config.json").read_bytes()


def test_shards_are_kept_and_load(tiny: Tiny, tmp_path: Path) -> None:
    base = tiny.save(tmp_path / "base", torch.bfloat16, shard="6KB")
    names = sorted(path.name for path in base.glob("*.safetensors"))
    assert len(names) > 2
    apply(base, tmp_path / "out", layers="0")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.safetensors")) == names
    assert torch.linalg.norm(logits(tmp_path / "out") - logits(base)) < 0.05 * torch.linalg.norm(logits(base))
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_the_manifest_records_what_was_done(checkpoint: Path, tmp_path: Path) -> None:
    manifest = apply(checkpoint, tmp_path / "out", layers="1", seed=7)
    read, elements = read_manifest(tmp_path / "out")
    assert read == manifest
    before, after = open_checkpoint(checkpoint), open_checkpoint(tmp_path / "out")
    (done,) = read.scrambles
    assert {step.layer for step in done.steps} == {1}
    assert {step.seed for step in done.steps} == {7}
    changed = {n for n in before.tensors if before.tensor_hash(n) != after.tensor_hash(n)}
    assert changed == set(done.tensors)
    for name, record in done.tensors.items():
        assert (record.before, record.after) == (before.tensor_hash(name), after.tensor_hash(name))
    assert done.equivalence is not None
    assert done.equivalence.verdict == "equivalent"
    assert sorted(elements) == sorted(record.key for step in done.steps for record in step.elements)


def test_other_copies_of_the_weights_are_not_carried_over(checkpoint: Path, tmp_path: Path) -> None:
    for name in (
        "pytorch_model.bin",
        "consolidated.safetensors",
        "model.gguf",
        "pytorch_model.bin.index.json",
    ):
        (checkpoint / name).write_bytes(b"old weights")
    (checkpoint / "tokenizer.json").write_text("{}")
    apply(checkpoint, tmp_path / "out", layers="1", check=False)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "scramble",
        "scramble.json",
        "tokenizer.json",
    }


def test_force_replaces_and_nothing_else_does(checkpoint: Path, tmp_path: Path, command: Command) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    assert (
        "checkpoint folders only" in command("apply", checkpoint, "--layers", 0, "--out", out, "--force").err
    )
    (out / "config.json").write_text("{}")
    refused = command("apply", checkpoint, "--layers", 0, "--out", out, "--no-verify")
    assert refused.code == 2
    assert "exists already" in refused.err
    assert (out / "mine.txt").read_text() == "keep"
    assert command("apply", checkpoint, "--layers", 0, "--out", out, "--no-verify", "--force").code == 0
    assert (out / "scramble.json").exists()
    assert not (out / "mine.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]


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

    monkeypatch.setitem(families.FAMILIES, "qwen2", replace(QWEN2, constraints=lambda config: (constraint,)))
    found = command("apply", checkpoint, "--layers", 0, "--symmetry", symmetry)
    assert found.code == 2
    assert constraint.note in found.err
    reasons = {
        row["symmetry"]: row["reason"]
        for row in command("inspect", checkpoint, "--format", "json").json["rows"]
    }
    assert constraint.note in reasons[symmetry]
    assert sum(reason is None for reason in reasons.values()) == 1


@pytest.mark.parametrize("step", ["copy", "overwrite", "write", "sync"])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    step: str, checkpoint: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Staging, step, full)
    found = command("apply", checkpoint, "--layers", 0, "--no-verify", "--quiet")
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert "the disk is full" in found.err
    assert [path.name for path in checkpoint.parent.iterdir()] == ["model"]


def test_two_calls_for_one_target_do_not_meet(checkpoint: Path, tmp_path: Path, command: Command) -> None:
    from scramble.checkpoints import staging

    with staging(tmp_path / "out"):
        found = command("apply", checkpoint, "--layers", 0, "--out", tmp_path / "out", "--no-verify")
    assert found.code == 2
    assert "another call is writing" in found.err


def test_killed_at_any_moment_it_leaves_no_model_and_the_next_call_succeeds(tmp_path: Path) -> None:
    base = Tiny("llama", 2, 2, 8, layers=3).save(tmp_path / "base", torch.bfloat16, shard="6KB")
    before = digest(base)
    command = [sys.executable, "-c", "from scramble.cli import main; main()", "apply", str(base)]
    command += ["--layers", "all", "--no-verify", "--out", str(tmp_path / "out")]
    whole = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    whole = time.monotonic() - whole
    rng = random.Random(0)
    for _ in range(8):
        subprocess.run(["rm", "-r", tmp_path / "out"], check=False, capture_output=True)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.3, 1.0) * whole)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        for folder in tmp_path.iterdir():
            if folder.name not in ("base", "out"):
                assert not (folder / "config.json").exists()
                with pytest.raises(CheckpointError):
                    open_checkpoint(folder)
        if (tmp_path / "out").exists():
            assert read_manifest(tmp_path / "out")[0].layers == [0, 1, 2]
        assert digest(base) == before
    subprocess.run(["rm", "-r", tmp_path / "out"], check=False, capture_output=True)
    subprocess.run(command, check=True, capture_output=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out"]
    assert read_manifest(tmp_path / "out")[0].layers == [0, 1, 2]


def test_a_damaged_manifest_is_refused(checkpoint: Path, tmp_path: Path, command: Command) -> None:
    out = tmp_path / "out"
    apply(checkpoint, out, layers="0", check=False)
    path = out / "scramble.json"
    sound = path.read_text()
    for text, message in (
        (sound.replace('"family"', '"famly"'), "scramble.json"),
        ("{", "scramble.json"),
        (sound.replace('"key": "0.0.', '"key": "9.9.', 1), "no element"),
    ):
        path.write_text(text)
        found = command("invert", out, "--out", tmp_path / "back")
        assert (found.code, found.err.count("\n")) == (2, 1)
        assert message in found.err
    path.unlink()
    assert "give the folder of a scrambled checkpoint" in command("invert", out).err


def test_an_element_outside_its_group_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    apply(checkpoint, tmp_path / "out", layers="0", check=False)
    path = tmp_path / "out" / "scramble" / "elements.safetensors"
    elements = load_file(path)
    key = next(key for key in elements if key.endswith(".v"))
    elements[key] = elements[key] * 1.001
    save_file(elements, path)
    with pytest.raises(ScrambleError, match="not orthogonal"):
        invert(tmp_path / "out", tmp_path / "back")


def test_a_trained_checkpoint_is_inverted_with_its_starts_manifest(checkpoint: Path, tmp_path: Path) -> None:
    apply(checkpoint, tmp_path / "start", layers="all", symmetries=("head-permutation",))
    trained = tmp_path / "trained"
    AutoModelForCausalLM.from_pretrained(tmp_path / "start").save_pretrained(trained)
    with pytest.raises(ScrambleError, match="of a scrambled checkpoint"):
        invert(trained, tmp_path / "back")
    invert(trained, tmp_path / "back", manifest=tmp_path / "start")
    for name, old in weights(checkpoint).items():
        assert torch.equal(weights(tmp_path / "back")[name], old)


def test_force_never_reaches_the_source_or_through_a_link(
    checkpoint: Path, tmp_path: Path, command: Command
) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "link").symlink_to(checkpoint)
    before = digest(checkpoint)
    for target in (checkpoint, tmp_path, checkpoint / "inside", tmp_path / "link", Path("/")):
        found = command("apply", checkpoint, "--layers", 0, "--out", target, "--no-verify", "--force")
        assert (found.code, found.err.count("\n")) == (2, 1)
    assert digest(checkpoint) == before


def test_two_kinds_of_weights_in_one_folder_are_refused(checkpoint: Path, command: Command) -> None:
    (checkpoint / "model.safetensors.index.json").write_text('{"weight_map": {"x": "model.safetensors"}}')
    assert "loaders disagree" in command("inspect", checkpoint).err


def test_the_same_draw_twice_is_refused(checkpoint: Path, tmp_path: Path, command: Command) -> None:
    apply(checkpoint, tmp_path / "one", layers="0", check=False)
    found = command("apply", tmp_path / "one", "--layers", 0, "--out", tmp_path / "two")
    assert found.code == 2
    assert "drawn with seed 0 before; use another --seed" in found.err


def test_invert_refuses_what_there_is_nothing_to_undo_in(
    checkpoint: Path, tmp_path: Path, command: Command
) -> None:
    apply(checkpoint, tmp_path / "out", layers="0", check=False)
    other = Tiny("qwen2", 4, 1, 8, layers=2).save(tmp_path / "other", torch.bfloat16)
    for folder, message in ((checkpoint, "in the base's frame already"), (other, "model's axes are")):
        found = command("invert", folder, "--manifest", tmp_path / "out", "--out", tmp_path / "back")
        assert (found.code, found.err.count("\n")) == (2, 1)
        assert message in found.err
    assert command("invert", checkpoint, "--manifest", tmp_path / "out" / "scramble.json").code == 2


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
