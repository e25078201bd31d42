"""`apply` on disk: what is kept, what is refused, and what an interruption leaves."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from scramble.checkpoints import Staging, open_checkpoint
from scramble.errors import CheckpointError, ScrambleError
from scramble.operations.apply import apply
from scramble.operations.invert import invert
from scramble.transforms.record import read_record
from tests.conftest import Command
from tests.models import Tiny, digest, logits, weights


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
    record = read_record(tmp_path / "out")
    read, elements = record.manifest, record.elements
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


def test_a_full_hash_covers_every_byte(checkpoint: Path, tmp_path: Path, command: Command) -> None:
    found = command("apply", checkpoint, "--layers", 0, "--out", tmp_path / "out", "--hash", "full")
    assert found.code == 0
    source = read_record(tmp_path / "out").manifest.scrambles[0].source
    assert (source.hash_kind, source.hash) == ("full", open_checkpoint(checkpoint).hash(full=True))
    changed = tmp_path / "changed"
    apply(checkpoint, changed, layers="1", symmetries=("head-permutation",), check=False)
    assert open_checkpoint(changed).hash(full=True) != source.hash


def test_two_permutations_that_cancel_are_refused(tmp_path: Path) -> None:
    base = Tiny("llama", 2, 1, 8, layers=1).save(tmp_path / "base", torch.bfloat16)
    apply(base, tmp_path / "one", layers="0", symmetries=("head-permutation",), check=False)
    with pytest.raises(ScrambleError, match="undoes an earlier scramble"):
        apply(tmp_path / "one", tmp_path / "two", layers="0", symmetries=("head-permutation",), seed=1)
    assert not (tmp_path / "two").exists()


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
        "README.md",
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


STEPS = ("copy", "overwrite", "write", "sync", "commit", "flush", "rename")


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.train
def test_killed_in_any_step_of_writing_it_leaves_no_half_model(
    step: str, force: bool, tmp_path: Path
) -> None:
    """SIGKILL at the end of each step's every second call, in a process of its own."""
    base = Tiny("llama", 2, 2, 8, layers=1).save(tmp_path / "base", torch.bfloat16, shard="6KB")
    out = tmp_path / "out"
    if force:
        apply(base, out, layers="0", seed=5, check=False)
    before, old = digest(base), digest(out) if force else None
    script = f"""
import importlib, os, pathlib, signal, scramble.files
from scramble.operations.apply import apply
module = importlib.import_module("scramble.checkpoints.staging")
calls = 0
owner = dict(flush=scramble.files, rename=pathlib.Path).get({step!r}, module.Staging)
real = getattr(owner, {step!r})
def deadly(*arguments, **options):
    global calls
    calls += 1
    result = real(*arguments, **options)
    if calls >= (1 if {step!r} in ("sync", "commit") else 2):  # other threads may have called it since
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(owner, {step!r}, deadly)
apply(pathlib.Path({str(base)!r}), pathlib.Path({str(out)!r}), layers="0", check=False, force={force})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert digest(base) == before
    if step == "commit":
        assert read_record(out).manifest.steps[0].seed == 0
    elif force:
        assert digest(out) == old
    else:
        assert not out.exists()
        leftover = out.with_name(".out.partial")
        assert not (leftover / "config.json").exists()
    apply(base, out, layers="0", check=False, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out"]


@pytest.mark.train
def test_killed_at_any_moment_it_leaves_no_model_and_the_next_call_succeeds(tmp_path: Path) -> None:
    base = Tiny("llama", 2, 2, 8, layers=3).save(tmp_path / "base", torch.bfloat16, shard="6KB")
    before = digest(base)
    command = [sys.executable, "-c", "from scramble.cli.app import main; main()", "apply", str(base)]
    command += ["--layers", "all", "--no-verify", "--out", str(tmp_path / "out")]
    whole = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    whole = time.monotonic() - whole
    rng = random.Random(0)
    for _ in range(20):
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
            assert {step.layer for step in read_record(tmp_path / "out").manifest.steps} == {0, 1, 2}
        assert digest(base) == before
    subprocess.run(["rm", "-r", tmp_path / "out"], check=False, capture_output=True)
    subprocess.run(command, check=True, capture_output=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out"]
    assert {step.layer for step in read_record(tmp_path / "out").manifest.steps} == {0, 1, 2}


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


def test_writing_a_copy_imports_no_torch(checkpoint: Path, tmp_path: Path) -> None:
    script = f"""
import sys, pathlib
from scramble.operations.apply import apply
apply(pathlib.Path({str(checkpoint)!r}), pathlib.Path({str(tmp_path / "out")!r}), layers="all", check=False)
assert not {{"torch", "transformers", "scipy"}} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


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


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core has one thread in any case")
def test_each_product_has_one_thread_and_the_process_its_own_again(checkpoint: Path) -> None:
    """In a process of its own, since OpenBLAS reads the environment when it is loaded."""
    script = f"""
import sys, pathlib
from threadpoolctl import threadpool_info
from scramble.operations import apply as _, invert as _
def threads():
    return [one["num_threads"] for one in threadpool_info() if one["internal_api"] == "openblas"]
def watch(module):
    real = module.rewrite
    def rewrite(*arguments):
        seen.append((module.__name__, set(threads())))
        return real(*arguments)
    module.rewrite = rewrite
seen, before = [], threads()
assert set(before) == {{2}}, before
apply, invert = (sys.modules["scramble.operations." + name] for name in ("apply", "invert"))
watch(apply), watch(invert)
model = pathlib.Path({str(checkpoint)!r})
apply.apply(model, model.with_name("moved"), layers="0", check=False)
assert threads() == before
invert.invert(model.with_name("moved"), model.with_name("back"))
assert threads() == before
assert seen == [(one.__name__, {{1}}) for one in (apply, invert)], seen
"""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
