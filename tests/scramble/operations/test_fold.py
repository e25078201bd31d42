"""Folding: norm gains move into what reads them, and the residual stream of a folded base may turn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from scramble.checkpoints import open_checkpoint
from scramble.errors import ManifestError, NotEquivalentError, ScrambleError, SymmetryError
from scramble.families import FAMILIES as TABLES
from scramble.measures.pairs.ends import ends
from scramble.operations.apply import apply
from scramble.operations.fold import fold
from scramble.operations.invert import invert
from scramble.operations.verify import verify
from scramble.transforms.record import read_record
from tests.conftest import Command
from tests.fake_runs import transported
from tests.families import FOLDABLE, LAYER_NORMS, POST_NORMS
from tests.models import FAMILIES, Tiny, digest, edit_config, error, weights


def model(family: str, switched: bool = False, tied: bool = False) -> Tiny:
    return Tiny(family, kv_heads=2, group=2, head_dim=8, layers=2, switched=switched, tied=tied, seed=8)


def rewrite(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_every_family_is_in_one_of_the_lists() -> None:
    assert sorted((*LAYER_NORMS, *POST_NORMS, *FOLDABLE)) == sorted(FAMILIES)
    assert all(TABLES[family].folds for family in FOLDABLE)


@pytest.mark.parametrize(
    ("switched", "tied", "shard"),
    [(False, False, "1GB"), (False, True, "6KB"), (True, False, "6KB"), (True, True, "1GB")],
)
@pytest.mark.parametrize("family", FOLDABLE)
@pytest.mark.train
def test_folding_keeps_the_function_and_leaves_no_gains(
    family: str, switched: bool, tied: bool, shard: str, tmp_path: Path
) -> None:
    base = model(family, switched, tied).save(tmp_path / "base", shard=shard)
    before, target = digest(base), tmp_path / "folded"
    done = fold(base, target, check=False).fold
    assert digest(base) == before
    assert error(target, base) < 1e-10
    old, new = weights(base), weights(target)
    assert new.keys() - old.keys() <= {"lm_head.weight"}
    slots = open_checkpoint(base).architecture.slots()
    norms = [name for name in new if "hidden" in slots[name].layout.gains]
    assert len(norms) >= 2 * 2 + 1
    for name in norms:
        assert (new[name] == (0 if TABLES[family].offset else 1)).all(), name
    assert not torch.equal(new["lm_head.weight"], new["model.embed_tokens.weight"])
    assert torch.equal(new["model.embed_tokens.weight"], old["model.embed_tokens.weight"])
    written = json.loads((target / "config.json").read_text())
    was = json.loads((base / "config.json").read_text())
    assert written["tie_word_embeddings"] is False
    assert written == was | {"tie_word_embeddings": False}
    changed = {name for name in new if name not in old or not torch.equal(new[name], old[name])}
    assert done is not None
    assert set(done.tensors) == changed
    index = target / "model.safetensors.index.json"
    assert index.exists() == (shard == "6KB")
    if index.exists():
        places = json.loads(index.read_text())["weight_map"]
        assert places.keys() == new.keys()
        assert places["lm_head.weight"] == places["model.embed_tokens.weight"] or not tied


@pytest.mark.parametrize("switched", [False, True])
@pytest.mark.parametrize("family", [*LAYER_NORMS, *POST_NORMS])
def test_what_cannot_be_folded_is_refused_with_its_reason(
    family: str, switched: bool, tmp_path: Path
) -> None:
    base = model(family, switched).save(tmp_path / "base", torch.bfloat16)
    reason = "LayerNorm.*mean" if family in LAYER_NORMS else "norms follow the blocks.*residual sum"
    with pytest.raises(SymmetryError, match=reason):
        fold(base, tmp_path / "folded")
    with pytest.raises(
        SymmetryError, match="mean over channels" if family in LAYER_NORMS else "residual sum"
    ):
        apply(base, tmp_path / "folded", symmetries=("residual-rotation",))
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize("family", FOLDABLE)
@pytest.mark.train
def test_the_stream_of_a_folded_base_turns_and_comes_back(family: str, tmp_path: Path) -> None:
    tiny = model(family, switched=True, tied=True)
    hidden = tiny.config["hidden_size"]
    base, folded = tiny.save(tmp_path / "base"), tmp_path / "folded"
    with pytest.raises(SymmetryError, match="own factor"):
        apply(base, folded, symmetries=("residual-rotation",))
    assert not folded.exists()
    fold(base, folded, check=False)
    chosen = ["residual-rotation", "residual-permutation"]
    if hidden & (hidden - 1):
        with pytest.raises(SymmetryError, match="power of two"):
            apply(folded, tmp_path / "out", symmetries=("residual-rotation:method=hadamard",))
    else:
        chosen.append("residual-rotation:method=hadamard")
    for place, one in enumerate(chosen):
        turned, back = tmp_path / f"turned{place}", tmp_path / f"back{place}"
        apply(folded, turned, symmetries=(one,), check=False)
        assert error(turned, base) < 1e-10
        old, new = weights(folded), weights(turned)
        for name in ("model.embed_tokens.weight", "lm_head.weight", "model.layers.1.self_attn.o_proj.weight"):
            assert not torch.allclose(old[name], new[name], rtol=0.01), name
        assert read_record(turned).manifest.fold == read_record(folded).manifest.fold
        invert(turned, back)
        for name, value in weights(back).items():
            assert torch.linalg.norm(value - old[name]) <= 1e-13 * torch.linalg.norm(old[name]), name
        if one == "residual-permutation":
            assert all(torch.equal(value, old[name]) for name, value in weights(back).items())


def test_hadamard_was_tried_on_some_family() -> None:
    sizes = [model(family).config["hidden_size"] for family in FOLDABLE]
    assert any(size & (size - 1) == 0 for size in sizes)


def test_what_is_folded_or_scrambled_already_is_refused(tmp_path: Path, command: Command) -> None:
    base = model("qwen2").save(tmp_path / "base", torch.bfloat16)
    folded, turned, scrambled = (tmp_path / name for name in ("folded", "turned", "scrambled"))
    assert command("fold", base, "--out", folded, "--quiet").code == 0
    apply(folded, turned, symmetries=("residual-rotation",), check=False)
    apply(base, scrambled, layers="all", check=False)
    for start in (folded, turned, scrambled):
        found = command("fold", start, "--out", tmp_path / "out")
        assert (found.code, found.out, found.err.count("\n")) == (2, "", 1)
        assert "has a scramble.json" in found.err
    found = command("invert", folded, "--out", tmp_path / "out")
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert "folding is not undone" in found.err
    with pytest.raises(ManifestError, match="folding is not undone"):
        invert(folded, tmp_path / "out")
    (folded / "scramble.json").unlink()
    with pytest.raises(SymmetryError, match="folded already"):
        fold(folded, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("family", "tied"),
    [("qwen2", False), ("llama", True), ("gemma", True), ("mixtral", True), ("gpt_oss", False)],
)
@pytest.mark.train
def test_verify_knows_what_a_fold_claims(family: str, tied: bool, tmp_path: Path) -> None:
    base, folded = model(family, tied=tied).save(tmp_path / "base", torch.bfloat16), tmp_path / "folded"
    done = fold(base, folded).fold
    found = verify(base, folded)
    assert done is not None
    assert done.equivalence == found
    assert found.verdict == "equivalent"
    assert found.weights_off == 0
    assert found.algebra_error is not None
    assert found.algebra_error < 1e-12
    sound = weights(folded)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors = {key: value.clone() for key, value in sound.items()}
        tensors[name].view(torch.int16).view(-1)[5] += 2  # one word more may be the other side of a tie
        rewrite(folded, tensors)
        caught = verify(base, folded)
        assert (caught.verdict, caught.weights_off) == ("not equivalent", 1), name


@pytest.mark.parametrize("tied", [False, True])
def test_from_the_unfolded_base_a_scramble_of_the_folded_one_is_checked_by_storage_only(
    tied: bool, tmp_path: Path
) -> None:
    base, folded = model("llama", tied=tied).save(tmp_path / "base", torch.bfloat16), tmp_path / "folded"
    fold(base, folded, check=False)
    apply(folded, tmp_path / "turned", symmetries=("residual-rotation",))
    found = verify(folded, tmp_path / "turned")
    assert (found.verdict, found.weights_off) == ("equivalent", 0)
    found = verify(base, tmp_path / "turned")
    assert (found.algebra_error, found.weights_off) == (None, None)
    assert 0 < found.storage_error < 0.1


def test_a_fold_that_went_wrong_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    module = importlib.import_module("scramble.transforms.folding")
    base = model("llama").save(tmp_path / "base", torch.bfloat16)
    scaled = module._scaled
    calls = iter([1.01])
    monkeypatch.setattr(module, "_scaled", lambda *arguments: scaled(*arguments) * (next(calls, 1.0)))
    with pytest.raises(NotEquivalentError, match="not equivalent"):
        fold(base, tmp_path / "folded")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_constant_gain_needs_no_folding(tmp_path: Path) -> None:
    base = model("llama", tied=True).save(tmp_path / "base")
    tensors = weights(base)
    for name in tensors:
        if "norm" in name:
            tensors[name] = torch.full_like(tensors[name], 1.25)
    rewrite(base, tensors)
    apply(base, tmp_path / "turned", symmetries=("residual-rotation",))
    assert error(tmp_path / "turned", base) < 1e-10


@pytest.mark.parametrize("symmetry", ["residual-rotation", "residual-permutation"])
def test_an_update_of_a_scrambled_folded_start_is_aligned_with_the_folded_base(
    symmetry: str, tmp_path: Path
) -> None:
    base, folded, start = (tmp_path / name for name in ("base", "folded", "start"))
    fold(model("qwen2", tied=True).save(base, torch.bfloat16), folded, check=False)
    apply(folded, start, symmetries=(symmetry,), check=False)
    end = tmp_path / "end"
    end.mkdir()
    (end / "config.json").write_bytes((folded / "config.json").read_bytes())
    generator = torch.Generator().manual_seed(0)
    rewrite(
        end,
        {
            name: value.float() + 1e-3 * torch.randn(value.shape, generator=generator)
            for name, value in weights(folded).items()
        },
    )
    moved = transported(folded, start, end, tmp_path / "moved")
    here, there = ends(folded, end), ends(start, moved, aligned=True)
    assert here.tensors == there.tensors
    for name in here.tensors:
        one, two = here.read(name, "raw"), there.read(name, "aligned")
        assert np.array_equal(one.start, two.start), name
        assert np.abs(one.delta - two.delta).max() < 1e-6, name
        assert (one.end != two.end).mean() < 0.02, name
    edit_config(folded, rope_theta=7.0)
    with pytest.raises(ScrambleError, match="not the checkpoint that was scrambled"):
        ends(start, moved, aligned=True)


@pytest.mark.parametrize("case", ["no key", "tied and stored"])
def test_configs_that_do_not_say_or_store_a_tied_head_fold(case: str, tmp_path: Path) -> None:
    base = Tiny("llama", 2, 2, 8, layers=1).save(tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    config.pop("tie_word_embeddings")
    if case == "tied and stored":
        config["tie_word_embeddings"] = True
        tensors = weights(base)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    (base / "config.json").write_text(json.dumps(config))
    assert fold(base, tmp_path / "folded").fold.equivalence.verdict == "equivalent"
    assert verify(base, tmp_path / "folded").weights_off == 0
