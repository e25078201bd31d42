"""Where the weights of a folder lie, and folders that are no checkpoint, or more than one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from scramble.checkpoints import open_checkpoint, target_of
from scramble.measures.pairs.ends import split
from scramble.operations.apply import apply
from scramble.operations.fold import fold
from scramble.operations.invert import invert
from scramble.operations.verify import verify
from tests.conftest import Command
from tests.models import Tiny, digest, edit_config, logits, weights
from tests.training import swept

SYMMETRIES = ("vo-rotation", "head-permutation", "residual-permutation")
INDEX = "model.safetensors.index.json"


def in_a_subfolder(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    (folder / "sub" / "deep").mkdir(parents=True)
    for number, path in enumerate(sorted(folder.glob("*.safetensors"))):
        name = f"sub/{'deep/' * (number % 2)}{path.name}"
        path.rename(folder / name)
        index["weight_map"] = {t: name if f == path.name else f for t, f in index["weight_map"].items()}
    (folder / INDEX).write_text(json.dumps(index))


def with_names_of_nothing(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    shard = next(iter(index["weight_map"].values()))
    index["weight_map"] |= {"model.layers.0.self_attn.masked_bias": shard, "model.extra.weight": shard}
    (folder / INDEX).write_text(json.dumps(index))


def a_single_file_beside_the_index(folder: Path) -> None:
    tensors = {name: value * 1.25 for name, value in weights(folder).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


FILES: dict[str, Callable[[Path], None]] = {
    "shards in a subfolder": in_a_subfolder,
    "an index with names that no shard has": with_names_of_nothing,
    "a single file beside an index": a_single_file_beside_the_index,
}


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {n: v for path in folder.rglob("model*.safetensors") for n, v in load_file(path).items()}


@pytest.mark.parametrize("change", FILES.values(), ids=FILES)
@pytest.mark.parametrize("tied", swept([False, True], kept=1))
def test_what_transformers_loads_is_what_is_scrambled(
    change: Callable[[Path], None], tied: bool, tmp_path: Path
) -> None:
    base = Tiny("llama", 2, 2, 8, layers=2, tied=tied, seed=3).save(tmp_path / "base", shard="6KB")
    change(base)
    before, reference, told = digest(base), logits(base), list[str]()
    out = tmp_path / "out"
    apply(base, out, layers="all", symmetries=SYMMETRIES, progress=told.append)
    assert digest(base) == before
    assert verify(base, out).verdict == "equivalent"
    for made in (out, tmp_path / "back", tmp_path / "folded"):
        if made.name == "back":
            invert(out, made)
        if made.name == "folded":
            fold(base, made)
        assert torch.linalg.norm(logits(made) - reference) < 1e-10 * torch.linalg.norm(reference), made
        assert not list(made.rglob("*.partial"))
    if change is a_single_file_beside_the_index:
        assert [path.name for path in out.glob("model*")] == ["model.safetensors"]
        assert any("not carried over" in line and INDEX in line for line in told)
    else:
        assert sorted(path.relative_to(out) for path in out.rglob("model*")) == sorted(
            path.relative_to(base) for path in base.rglob("model*")
        )


def test_a_tensor_that_the_index_names_and_the_table_needs_is_missed(
    tmp_path: Path, command: Command
) -> None:
    base = Tiny("llama", 2, 1, 8, layers=1).save(tmp_path / "base", torch.bfloat16, shard="2KB")
    end = Path(shutil.copytree(base, tmp_path / "end"))
    index = json.loads((end / INDEX).read_text())
    shard = end / index["weight_map"]["model.norm.weight"]
    tensors = {
        n: weights(end)[n] for n, f in index["weight_map"].items() if f == shard.name and "norm" not in n
    }
    save_file(tensors, shard, metadata={"format": "pt"})
    assert "in the family's table but not in the checkpoint" in command("apply", end, "--layers", 0).err
    edit_config(base, model_type="something-new")
    edit_config(end, model_type="something-new")
    found = command("diff", f"{base}:{end}")
    assert found.code == 2
    assert f"named by the index, stored in no shard in {end}" in found.err


@pytest.mark.parametrize("what", ["quantization_config", "hf_quant_config.json", "quantize_config.json"])
def test_weights_that_loaders_quantise_are_not_called_equivalent(
    what: str, checkpoint: Path, tmp_path: Path, command: Command
) -> None:
    if what == "quantization_config":
        edit_config(checkpoint, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    else:
        (checkpoint / what).write_text("{}")
    found = command("apply", checkpoint, "--layers", 0, "--out", tmp_path / "out", "--quiet")
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert "makes loaders quantise these weights" in found.err
    assert not (tmp_path / "out").exists()


def test_descriptions_of_modules_that_stay_behind_are_not_carried_over(
    checkpoint: Path, tmp_path: Path
) -> None:
    (checkpoint / "modules.json").write_text("[]")
    (checkpoint / "1_Pooling").mkdir()
    told: list[str] = []
    apply(checkpoint, tmp_path / "out", layers="0", progress=told.append)
    assert not (tmp_path / "out" / "modules.json").exists()
    assert any("1_Pooling, modules.json" in line for line in told)


def cached(checkpoint: Path, home: Path) -> Path:
    repo = home / "hub" / "models--org--name"
    snapshot = repo / "snapshots" / ("c0ffee" * 7)[:40]
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    for number, path in enumerate(sorted(path for path in checkpoint.rglob("*") if path.is_file())):
        name = path.relative_to(checkpoint)
        (snapshot / name).parent.mkdir(exist_ok=True)
        (snapshot / name).symlink_to(Path(path.rename(repo / "blobs" / str(number))))
    return snapshot


@pytest.mark.parametrize("kind", ["apply", "fold", "invert"])
def test_nothing_is_written_into_a_hubs_cache(
    kind: str, checkpoint: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "invert":
        apply(checkpoint, tmp_path / "scrambled", layers="0")
        checkpoint = tmp_path / "scrambled"
    snapshot, work = cached(checkpoint, tmp_path / "home"), tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    before = sorted((tmp_path / "home").rglob("*"))
    found = command(
        kind, snapshot, *(("--layers", 0) if kind == "apply" else ()), "--format", "json", "--quiet"
    )
    assert found.code == 0, found.err
    suffix = {"apply": "scrambled", "fold": "folded", "invert": "inverted"}[kind]
    assert [path.name for path in work.iterdir()] == [f"name-{suffix}"]
    assert found.json["meta"]["out"] == str(work / f"name-{suffix}")
    assert sorted((tmp_path / "home").rglob("*")) == before


def test_targets_stand_beside_what_was_typed(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    snapshot = cached(checkpoint, tmp_path / "home")
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "mine"
    link.symlink_to(snapshot)
    assert target_of(link, None, "scrambled") == tmp_path / "links" / "mine-scrambled"
    assert target_of(f"{link}/", None, "x") == target_of(tmp_path / "links/./../links/mine", None, "x")
    monkeypatch.chdir(tmp_path / "links")
    assert target_of("mine", None, "x") == tmp_path / "links" / "mine-x"
    assert target_of("org/name@v1", None, "x") == tmp_path / "links" / "name-x"
    monkeypatch.chdir(snapshot)
    found = command("apply", ".", "--layers", 0)
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert "give --out" in found.err


def test_a_colon_in_a_path_can_be_said(checkpoint: Path, tmp_path: Path, command: Command) -> None:
    odd = Path(shutil.copytree(checkpoint, tmp_path / "a:b" / "c:d"))
    escaped = str(odd).replace(":", r"\:")
    texts = [f"{checkpoint}:{odd}", f"{odd}:{checkpoint}", f"{odd}:{odd}", f"{escaped}:{checkpoint}"]
    for text in texts:
        for arguments in (("diff", text), ("spectra", text), ("rates", text), ("principal", text)):
            found = command(*arguments, "--format", "json")
            assert found.code == 0, found.err
    assert split(f"org/name@v1:{odd}") == ("org/name@v1", str(odd))
    for name in ("diff", "overlap", "spectra", "principal", "consensus", "rates", "curvature", "gates"):
        assert r"\:" in command(name, "--help").out


def test_two_ways_to_part_a_run_are_refused(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "a:b", "b:c", "c"):
        Path(name).mkdir()
    found = command("diff", "a:b:c")
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert r"write \: for one that belongs to a path" in found.err
    assert split(r"a\:b:c") == ("a:b", "c")
    assert split(r"a:b\:c") == ("a", "b:c")


def test_the_hash_of_a_flat_folder_knows_no_folders(checkpoint: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    assert open_checkpoint(checkpoint).hash(full=True) == open_checkpoint(copied).hash(full=True)
    assert os.sep not in open_checkpoint(copied).place(open_checkpoint(copied).shards[0])
