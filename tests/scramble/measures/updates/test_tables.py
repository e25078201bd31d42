"""`diff` and `overlap` on checkpoints: frames, pooling, tied weights, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import scramble
from scramble.errors import CheckpointError, MismatchError
from scramble.measures.pairs.ends import ends
from scramble.measures.updates.tables import count_pairs, count_updates, diff, overlap
from scramble.operations.apply import apply
from tests.conftest import Command
from tests.fake_runs import train, transported
from tests.models import Tiny, edit_config, logits, weights

ROTATED = "model.layers.1.self_attn.o_proj.weight"


@pytest.fixture
def arms(tmp_path: Path) -> dict[str, Path]:
    """A base, a scrambled start, one training of the base, and the same training in the scrambled frame."""
    base = Tiny("qwen2", 3, 2, 8, layers=2, seed=4).save(tmp_path / "base", torch.bfloat16)
    start = tmp_path / "scrambled"
    apply(base, start, layers="1", symmetries=("vo-rotation", "head-permutation"))
    end = train(base, tmp_path / "end", 0)
    return {
        "base": base,
        "start": start,
        "end": end,
        "other": train(base, tmp_path / "other", 1),
        "moved": transported(base, start, end, tmp_path / "moved"),
    }


def test_the_aligned_frame_brings_the_same_update_back(arms: dict[str, Path]) -> None:
    runs = [ends(arms["base"], arms["end"], aligned=True), ends(arms["start"], arms["moved"], aligned=True)]
    table = overlap(count_pairs(runs), ["tensor"]).set_index(["tensor", "frame"])
    assert table.loc[(ROTATED, "aligned"), "jaccard"] > 0.99
    assert table.loc[(ROTATED, "aligned"), "update_cosine"] > 0.9999
    raw = table.loc[(ROTATED, "raw")]
    assert raw["jaccard"] < raw["chance"] + 0.1
    untouched = "model.layers.0.self_attn.o_proj.weight"
    assert table.loc[(untouched, "raw"), "jaccard"] == table.loc[(untouched, "aligned"), "jaccard"] > 0.99


def test_permutations_align_exactly_from_bf16_ends(tmp_path: Path) -> None:
    base = Tiny("llama", 3, 2, 8, layers=2, seed=4).save(tmp_path / "base", torch.bfloat16)
    apply(base, tmp_path / "start", layers="all", symmetries=("head-permutation",))
    end = train(base, tmp_path / "end", 0, torch.bfloat16)
    trained = transported(base, tmp_path / "start", end, tmp_path / "moved")
    rounded = {name: value.to(torch.bfloat16) for name, value in weights(trained).items()}
    save_file(rounded, trained / "model.safetensors", metadata={"format": "pt"})
    runs = [ends(base, end, aligned=True), ends(tmp_path / "start", trained, aligned=True)]
    for name in runs[0].tensors:
        one, two = (run.read(name, "aligned") for run in runs)
        assert (one.start == two.start).all()
        assert (one.end == two.end).all()


def test_a_rotation_from_bf16_ends_is_refused_in_the_aligned_frame_only(
    arms: dict[str, Path], tmp_path: Path, command: Command
) -> None:
    bf16 = train(arms["start"], tmp_path / "bf16", 2, torch.bfloat16)
    runs = [f"{arms['base']}:{arms['end']}", f"{arms['start']}:{bf16}"]
    refused = command("overlap", *runs, "--quiet")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "needs a float32 end" in refused.err
    raw = command("overlap", *runs, "--frame", "raw", "--format", "json", "--quiet")
    assert raw.code == 0
    assert {row["frame"] for row in raw.json["rows"]} == {"raw"}
    assert str(bf16) in raw.json["meta"]["updates_from_bf16_ends"]


def test_a_base_that_is_not_the_manifests_is_refused(
    arms: dict[str, Path], tmp_path: Path, command: Command
) -> None:
    other = Tiny("qwen2", 3, 2, 8, layers=2, seed=9).save(tmp_path / "wrong", torch.bfloat16)
    runs = [f"{arms['base']}:{arms['end']}", f"{arms['start']}:{arms['moved']}"]
    found = command("overlap", *runs, "--base", other)
    assert found.code == 2
    assert "not the checkpoint that was scrambled" in found.err
    moved = arms["base"].rename(tmp_path / "elsewhere")
    runs[0] = f"{moved}:{arms['end']}"
    assert "say where it is with --base" in command("overlap", *runs).err
    assert command("overlap", *runs, "--base", moved, "--quiet").code == 0


def test_pooled_figures_are_ratios_of_sums(arms: dict[str, Path]) -> None:
    runs = [ends(arms["base"], arms["end"]), ends(arms["base"], arms["other"])]
    counts = count_pairs(runs, ["raw"])
    tables = overlap(counts, ["model", "module", "layer", "layer-module", "tensor"])
    model = tables[tables["level"] == "model"].iloc[0]
    assert (
        model["jaccard"]
        == counts["both"].sum() / (counts["changed_a"] + counts["changed_b"] - counts["both"]).sum()
    )
    assert model["n"] == sum(value.numel() for value in weights(arms["base"]).values())
    for level in ("module", "layer", "layer-module", "tensor"):
        assert tables.loc[tables["level"] == level, "n"].sum() == model["n"]
    inner = tables[tables["level"] == "model without embeddings"].iloc[0]
    embeddings = [v.numel() for n, v in weights(arms["base"]).items() if "embed" in n or "lm_head" in n]
    assert inner["n"] == model["n"] - sum(embeddings)


def test_diff_counts_what_torch_counts(arms: dict[str, Path], command: Command) -> None:
    run = f"{arms['base']}:{arms['end']}"
    rows = command("diff", run, "--by", "tensor,model", "--format", "json").json["rows"]
    old, new = weights(arms["base"]), weights(arms["end"])
    expected = {name: int((new[name].to(torch.bfloat16) != old[name]).sum()) for name in old}
    assert {row["tensor"]: row["changed"] for row in rows if row["level"] == "tensor"} == expected
    model = next(row for row in rows if row["level"] == "model")
    assert model["changed"] == sum(expected.values())
    assert model["sparsity"] == pytest.approx(1 - sum(expected.values()) / model["n"])
    assert 0 < model["sparsity"] < 1


def test_tied_weights_are_counted_once(tmp_path: Path) -> None:
    base = Tiny("llama", 2, 1, 4, layers=1, tied=True).save(tmp_path / "base", torch.bfloat16)
    twice = tmp_path / "twice"
    twice.mkdir()
    tensors = weights(base)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, twice / "model.safetensors", metadata={"format": "pt"})
    (twice / "config.json").write_bytes((base / "config.json").read_bytes())
    counted = {tuple(diff(count_updates(ends(a, b)))["n"]) for a in (base, twice) for b in (base, twice)}
    assert len(counted) == 1
    edit_config(twice, tie_word_embeddings=False)
    with pytest.raises(MismatchError, match="only one ties"):
        ends(base, twice)
    edit_config(twice, tie_word_embeddings=True)
    tensors["lm_head.weight"] += 1
    save_file(tensors, twice / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"differs from model\.embed_tokens"):
        ends(base, twice)


def test_ends_that_do_not_match_are_refused(arms: dict[str, Path], tmp_path: Path, command: Command) -> None:
    other = Tiny("qwen2", 3, 2, 8, layers=1).save(tmp_path / "short", torch.bfloat16)
    wide = Tiny("qwen2", 3, 2, 6, layers=2).save(tmp_path / "wide", torch.bfloat16)
    for end, message in ((other, "is in only one of"), (wide, "has shape")):
        found = command("diff", f"{arms['base']}:{end}")
        assert (found.code, found.out, found.err.count("\n")) == (2, "", 1)
        assert message in found.err
    for text in ("nothing", "a:b:c", ":x", "x:"):
        assert "START:END" in command("diff", text).err
    assert command("overlap", f"{arms['base']}:{arms['end']}").code == 2
    found = command("overlap", f"{arms['base']}:{arms['end']}", f"{wide}:{wide}")
    assert (found.code, found.err.count("\n")) == (2, 1)


def test_the_same_start_in_another_folder_gives_the_same_figures(
    arms: dict[str, Path], tmp_path: Path
) -> None:
    import shutil

    copied = Path(shutil.copytree(arms["base"], tmp_path / "copy"))
    one = count_pairs([ends(arms["base"], arms["end"]), ends(arms["base"], arms["other"])], ["raw"])
    two = count_pairs([ends(arms["base"], arms["end"]), ends(copied, arms["other"])], ["raw"])
    for column in ("both", "chance", "magnitude_matched"):
        np.testing.assert_allclose(one[column], two[column], rtol=1e-12)


def test_a_run_that_is_listed_twice_is_refused(arms: dict[str, Path], command: Command) -> None:
    run = f"{arms['base']}:{arms['end']}"
    found = command("overlap", run, run)
    assert found.code == 2
    assert "list every run once" in found.err


def test_bf16_values_saved_as_float32_are_refused_too(arms: dict[str, Path], command: Command) -> None:
    rounded = {name: value.to(torch.bfloat16).float() for name, value in weights(arms["moved"]).items()}
    save_file(rounded, arms["moved"] / "model.safetensors", metadata={"format": "pt"})
    found = command("overlap", f"{arms['base']}:{arms['end']}", f"{arms['start']}:{arms['moved']}")
    assert found.code == 2
    assert "holds bf16 or fp16 values" in found.err


def test_a_start_that_is_not_what_its_manifest_says_is_refused(
    arms: dict[str, Path], command: Command
) -> None:
    tensors = weights(arms["start"])
    tensors[ROTATED] += 0.01
    save_file(tensors, arms["start"] / "model.safetensors", metadata={"format": "pt"})
    found = command("overlap", f"{arms['base']}:{arms['end']}", f"{arms['start']}:{arms['moved']}")
    assert found.code == 2
    assert "is not as its manifest says" in found.err


def test_nothing_is_called_aligned_where_nothing_was(arms: dict[str, Path], command: Command) -> None:
    runs = [f"{arms['base']}:{arms['end']}", f"{arms['base']}:{arms['other']}"]
    found = command("overlap", *runs, "--format", "json")
    assert {row["frame"] for row in found.json["rows"]} == {"raw"}
    assert found.json["meta"]["aligned"].startswith("none")
    assert command("overlap", *runs, "--frame", "aligned").code == 2
    (arms["start"] / "scramble.json").unlink()
    runs[1] = f"{arms['start']}:{arms['moved']}"
    assert command("overlap", *runs, "--frame", "aligned").code == 2


def test_a_start_off_the_bf16_grid_is_matched_by_its_place_between_two_words(
    arms: dict[str, Path], tmp_path: Path
) -> None:
    fine = train(arms["base"], tmp_path / "fine", 5)
    runs = [ends(fine, train(fine, tmp_path / f"end{seed}", seed)) for seed in (6, 7)]
    row = overlap(count_pairs(runs, ["raw"]), ["model"]).iloc[0]
    assert row["jaccard"] > row["chance"] + 0.02
    # The updates are noise of one size: rounding is all there is.
    assert row["rounding_only"] == pytest.approx(row["jaccard"], abs=0.02)
    assert row["magnitude_matched"] > row["chance"] + 0.01


def test_a_trained_scrambled_model_inverted_computes_the_same(arms: dict[str, Path], tmp_path: Path) -> None:
    from scramble.operations.invert import invert

    invert(arms["moved"], tmp_path / "back", manifest=arms["start"])
    error = torch.linalg.norm(logits(tmp_path / "back") - logits(arms["moved"]))
    assert error < 1e-5 * torch.linalg.norm(logits(arms["moved"]))


def test_an_unknown_family_can_still_be_compared(arms: dict[str, Path], command: Command) -> None:
    for name in ("base", "end"):
        edit_config(arms[name], model_type="something-new")
    assert command("diff", f"{arms['base']}:{arms['end']}").code == 0


def test_figures_are_drawn_and_means_are_means_over_pairs(
    arms: dict[str, Path], tmp_path: Path, command: Command
) -> None:
    """What the figures show is compared with the tables in `test_figures`."""
    runs = [f"{arms['base']}:{arms[end]}" for end in ("end", "other")] + [f"{arms['start']}:{arms['moved']}"]
    plots = [tmp_path / "a.svg", tmp_path / "b.png", tmp_path / "c.svg"]
    pairs = command("overlap", *runs, "--format", "json", "--plot", plots[0]).json["rows"]
    means = command("overlap", *runs, "--format", "json", "--mean").json["rows"]
    model = [row["jaccard"] for row in pairs if (row["level"], row["frame"]) == ("model", "aligned")]
    (mean,) = [row for row in means if (row["level"], row["frame"]) == ("model", "aligned")]
    assert (mean["pairs"], len(model)) == (3, 3)
    assert mean["jaccard"] == pytest.approx(sum(model) / 3)
    assert command("overlap", *runs[:2], "--decompose", "--plot", plots[1], "--by", "model").code == 0
    assert command("diff", runs[0], "--plot", plots[2], "--eta", 0.001).code == 0
    assert [plot.read_bytes()[:4] for plot in plots] == [b"<svg", b"\x89PNG", b"<svg"]
    assert command("overlap", *runs, "--plot", tmp_path / "x.pdf").code == 2


def test_embeddings_and_norms_can_be_left_out(arms: dict[str, Path]) -> None:
    table = diff(count_updates(ends(arms["base"], arms["end"])), ["model"]).set_index("level")
    sizes = {name: value.numel() for name, value in weights(arms["base"]).items()}
    inner = {name: n for name, n in sizes.items() if "embed" not in name and "lm_head" not in name}
    assert table.loc["model without embeddings", "n"] == sum(inner.values())
    rest = [n for name, n in inner.items() if "norm" not in name]
    assert table.loc["model without embeddings and norms", "n"] == sum(rest)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_scalars_empty_tensors_and_odd_names_are_counted(
    dtype: torch.dtype, tmp_path: Path, command: Command
) -> None:
    """A scalar counts as one weight, an empty tensor as none, in every command that takes all shapes."""
    starts = {"layers.0.scale": torch.tensor(1.00390625), "layers.0.nan": torch.tensor(float("nan"))}
    starts |= {"layers.0.q.weight": torch.randn(6, 5), "0": torch.ones(4)}
    starts |= {f"layers.0.empty{shape}": torch.zeros(shape) for shape in ([0], [0, 5], [5, 0])}
    folders = [tmp_path / name for name in ("start", "one", "two")]
    for number, folder in enumerate(folders):
        folder.mkdir()
        tensors = {name: (value * (1 + 0.1 * number)).to(dtype) for name, value in starts.items()}
        save_file(tensors, folder / "model.safetensors")
        (folder / "config.json").write_text('{"model_type": "none"}')
    runs = [f"{folders[0]}:{end}" for end in folders[1:]]
    for options in ([], ["--row-column"], ["--decompose", "--plot", tmp_path / "figure.png"]):
        found = command("overlap", *runs, *options, "--by", "model,tensor", "--format", "json")
        assert (found.code, found.err) == (0, "")
    shares = command("consensus", *runs, "--by", "tensor", "--format", "json")
    assert (shares.code, shares.err) == (0, "")
    rows = {(row["tensor"], row["changed_by"]): row for row in shares.json["rows"]}
    assert rows["layers.0.scale", 2]["share"] == 1
    assert rows["layers.0.nan", 0]["share"] == 1
    assert rows["0", 2]["n"] == 4
    assert rows["layers.0.empty[5, 0]", 2]["n"] == 0


@pytest.mark.filterwarnings("error")
def test_float64_values_beyond_float32_are_infinite_without_a_word(tmp_path: Path, command: Command) -> None:
    for name, value in (("start", 1.0), ("end", 1e300)):
        (tmp_path / name).mkdir()
        save_file(
            {"w": torch.full((2, 2), value, dtype=torch.float64)}, tmp_path / name / "model.safetensors"
        )
        (tmp_path / name / "config.json").write_text('{"model_type": "none"}')
    found = command("diff", f"{tmp_path / 'start'}:{tmp_path / 'end'}", "--by", "tensor", "--format", "json")
    assert found.code == 0
    assert [(row["changed"], row["non_finite"]) for row in found.json["rows"]] == [(4, 4)]


@pytest.mark.parametrize("family", ["gemma", "gpt2"])
def test_a_config_may_leave_tying_to_its_familys_default(
    family: str, tmp_path: Path, command: Command
) -> None:
    tiny = Tiny(family, 2, 1, 8, layers=1, tied=True)
    start = tiny.save(tmp_path / "start", torch.bfloat16)
    end = train(start, tmp_path / "end", 0, torch.bfloat16)
    config = json.loads((start / "config.json").read_text())
    del config["tie_word_embeddings"]
    (start / "config.json").write_text(json.dumps(config))
    assert command("diff", f"{start}:{end}", "--format", "json").code == 0


@pytest.mark.parametrize(
    ("shape", "offsets"),
    [([-2, -3], [0, 24]), ([2.0, 3.0], [0, 24]), ([2, 3], [0.0, 24.0]), ([True, 6], [0, 24])],
)
def test_headers_with_numbers_that_are_no_sizes_are_refused(
    shape: list[object], offsets: list[object], tmp_path: Path, command: Command
) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(24))
    (tmp_path / "config.json").write_text('{"model_type": "none"}')
    found = command("diff", f"{tmp_path}:{tmp_path}")
    assert (found.code, found.out) == (2, "")
    assert "which are no sizes" in found.err


def test_runs_without_a_change_are_named(arms: dict[str, Path]) -> None:
    base, end = arms["base"], arms["end"]
    for mean in (False, True):
        still = scramble.overlap([(base, base), (base, end)], by=["model"], mean=mean)
        assert "/base changed: overlaps" in still.attrs["meta"]["caution"]
    assert "caution" not in scramble.overlap([(base, end), (base, arms["other"])]).attrs["meta"]
