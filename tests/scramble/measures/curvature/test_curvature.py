"""`scramble curvature`: correlations and masses against slow definitions, pooling, the command, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import pearsonr, rankdata, spearmanr

from scramble.measures.curvature.correlations import correlations, matrix_figures
from scramble.measures.curvature.diagonal import Diagonal
from scramble.measures.curvature.measure import Curvature, curvature
from scramble.measures.pairs.ends import CheckpointPair, ends
from scramble.measures.pairs.selection import Selection
from tests.conftest import Command
from tests.fake_runs import train
from tests.models import Tiny, weights, with_tokenizer
from tests.scramble.measures.curvature.conftest import text

K, UP = "model.layers.0.self_attn.k_proj.weight", "model.layers.1.mlp.up_proj.weight"


def drawn(run: CheckpointPair, names: list[str], seed: int = 0) -> Curvature:
    """A curvature of random entries, of both signs."""
    generator, found = torch.Generator().manual_seed(seed), Diagonal()
    for _ in range(2):
        found.add(
            {name: torch.randn(run.start.tensors[name].shape, generator=generator).double() for name in names}
        )
    return Curvature(names, {"hessian": found}, {}, 2, 16, 0)


def test_figures_are_the_definition(run: CheckpointPair) -> None:
    measured = drawn(run, [K, UP])
    found = matrix_figures(run, measured, rank=2, alpha=0.3).set_index("tensor")
    for name in (K, UP):
        row = found.loc[name]
        start, end = (weights(one.folder)[name].double().numpy() for one in (run.start, run.end))
        values = measured.diagonals["hessian"].mean(name).numpy()
        left, sigma, right = np.linalg.svd(start, full_matrices=False)
        score = np.abs(left[:, :2] * sigma[:2] @ right[:2])
        for column, other in (
            ("rho_principal", score),
            ("rho_magnitude", np.abs(start)),
            ("rho_update", np.abs(end - start)),
        ):
            assert row[column] == pytest.approx(spearmanr(np.abs(values).ravel(), other.ravel()).statistic)
        # A partial correlation is that of the residuals after a linear fit.
        x, y, z = (rankdata(np.abs(one)) for one in (values, score, start))
        x, y = (one - np.polyval(np.polyfit(z, one, 1), z) for one in (x, y))
        assert row["rho_principal_given_magnitude"] == pytest.approx(pearsonr(x, y).statistic)
        order = np.argsort(-score, axis=None, kind="stable")[: round(0.3 * score.size)]
        low = np.argsort(np.abs(start), axis=None, kind="stable")[: round(0.3 * score.size)]
        size = np.abs(values).ravel()
        assert row["mass_principal"] == pytest.approx(size[order].sum())
        assert row["mass_low_magnitude"] == pytest.approx(size[low].sum())
        assert row["chance"] == pytest.approx(size.sum() * round(0.3 * size.size) / size.size)
        assert row["sum"] == pytest.approx(values.sum())


def test_levels_pool_sums_and_weigh_correlations(run: CheckpointPair) -> None:
    figures = matrix_figures(run, drawn(run, [K, UP]), rank=2, alpha=0.3)
    found = correlations(figures, ["model", "tensor"])
    whole, one, other = (found.iloc[at] for at in range(3))
    a, b = one["n"], other["n"]
    assert (whole["n"], whole["matrices"]) == (a + b, 2)
    for name in ("rho_principal", "rho_update", "rho_principal_given_magnitude", "mean"):
        assert whole[name] == pytest.approx((a * one[name] + b * other[name]) / (a + b))
    for name in ("rms", "error"):
        assert whole[name] == pytest.approx(np.sqrt((a * one[name] ** 2 + b * other[name] ** 2) / (a + b)))
    mass = figures["mass"].sum()
    assert whole["in_principal"] == pytest.approx(figures["mass_principal"].sum() / mass)
    assert whole["chance"] == pytest.approx(0.3, abs=0.01)


def test_a_proxy_that_is_constant_has_no_correlation(run: CheckpointPair) -> None:
    same = ends(run.start.folder, run.start.folder)
    figures = matrix_figures(same, drawn(same, [K]), rank=2)
    assert figures["rho_update"].isna().all()
    assert figures["rho_principal"].notna().all()
    figures = pd.concat([figures, matrix_figures(run, drawn(run, [UP]), rank=2)])
    pooled = correlations(figures, ["model"])["rho_update"].item()
    assert pooled == figures["rho_update"].iloc[1]


def test_a_curvature_that_is_the_principal_score_is_found(run: CheckpointPair) -> None:
    """rho 1 and all the mass of the mask that the definition gives it."""
    start = weights(run.start.folder)[UP].double()
    left, sigma, right = torch.linalg.svd(start, full_matrices=False)
    score = ((left[:, :2] * sigma[:2]) @ right[:2]).abs()
    planted = Diagonal()
    planted.add({UP: score})
    row = matrix_figures(run, Curvature([UP], {"fisher": planted}, {}, 1, 8, 0), rank=2).iloc[0]
    assert row["rho_principal"] == pytest.approx(1)
    assert row["mass_principal"] > 0.6 * row["mass"]


ASK = ("--length", 8, "--probes", 2, "--format", "json", "--quiet")


def test_command_gives_a_row_a_level_and_diagonal(
    run: CheckpointPair, prompts: Path, command: Command, tmp_path: Path
) -> None:
    ask = ("curvature", text(run), "--prompts", prompts, *ASK, "--plot", tmp_path / "f.svg")
    found = command(*ask, "--by", "model,layer-module", "--block-layers", "1", "--eigenvalues", 2)
    assert (found.code, found.err) == (0, "")
    rows, meta = found.json["rows"], found.json["meta"]
    assert len(rows) == 2 * (1 + 14)
    assert {row["curvature"] for row in rows} == {"empirical_fisher", "hessian"}
    assert (meta["sequences"], meta["labels"]) == (4, "text")
    assert meta["top eigenvalues, layer 1"].count("residual") == 2
    content = (tmp_path / "f.svg").read_bytes()
    assert content.startswith(b"<svg")
    assert b"nan" not in content.lower()
    exact = command(*ask, "--dtype", "float64").json["rows"][0]
    assert exact["mean"] == pytest.approx(rows[0]["mean"], rel=1e-3)
    assert exact["mean"] != rows[0]["mean"]


def test_seeds_name_the_draws(run: CheckpointPair, prompts: Path, command: Command) -> None:
    def rows(*more: Any) -> list[dict[str, Any]]:
        ask = ("curvature", text(run), "--prompts", prompts, *ASK, "--labels", "sampled", "--layers", "0")
        found: list[dict[str, Any]] = command(*ask, *more).json["rows"]
        return found

    first, again, other = rows(), rows(), rows("--seed", 1)
    assert first == again
    assert {row["curvature"] for row in first} == {"fisher", "hessian"}
    assert all(a["mean"] != b["mean"] for a, b in zip(first, other, strict=True))
    assert {row["curvature"] for row in rows("--probes", 0)} == {"fisher"}


def test_what_is_not_chosen_does_not_change_the_fisher_of_the_rest(
    run: CheckpointPair, prompts: Path
) -> None:
    few = curvature(run, prompts, Selection("1", ("up_proj",)), probes=0, length=8)
    all_ = curvature(run, prompts, probes=0, length=8)
    assert few.names == [UP]
    assert torch.allclose(
        few.diagonals["empirical_fisher"].mean(UP), all_.diagonals["empirical_fisher"].mean(UP)
    )


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "qwen3", "gpt_neox", "phi3"])
def test_other_families_have_both(family: str, prompts: Path, command: Command, tmp_path: Path) -> None:
    tiny = Tiny(family, kv_heads=2, group=1, head_dim=8, layers=1, seed=3)
    start = with_tokenizer(tiny.save(tmp_path / family, torch.bfloat16))
    both = ends(start, train(start, tmp_path / "end", 0))
    for name in ("curvature", "gates"):
        more = ("--probes", 1) if name == "curvature" else ()
        found = command(name, text(both), "--prompts", prompts, "--length", 8, *more, "--quiet")
        assert (found.code, found.err) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--prompts FILE is needed"),
        (["--prompts", "no.txt"], "no.txt: cannot be read"),
        (["--prompts", "prompts.txt", "--layers", "7"], "outside this model's layers"),
        (["--prompts", "prompts.txt", "--modules", "q"], "no matrix 'q' here"),
        (["--prompts", "prompts.txt", "--alpha", "1.5"], "alpha 1.5"),
        (
            ["--prompts", "prompts.txt", "--block-layers", "7"],
            "--block-layers 7: '7' is outside",
        ),
        (
            ["--prompts", "prompts.txt", "--layers", "1", "--block-layers", "0"],
            "no matrix of layer 0 is chosen",
        ),
        (["--prompts", "prompts.txt", "--device", "nowhere"], "--device nowhere: not here"),
        (["--prompts", "prompts.txt", "--plot", "f.pdf"], ".svg or .png"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(
    run: CheckpointPair,
    prompts: Path,
    command: Command,
    arguments: list[str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(prompts.parent)
    found = command("curvature", text(run), *arguments)
    assert (found.code, found.err.count("\n"), found.out) == (2, 1, "")
    assert says in found.err


def test_infinite_weights_are_refused(run: CheckpointPair, prompts: Path, command: Command) -> None:
    for folder, name, says in (
        (run.end.folder, UP, "infinite or NaN"),
        (run.start.folder, "model.norm.weight", "logits are not finite"),
    ):
        path = folder / "model.safetensors"
        whole = load_file(path)
        broken = {key: value.clone() for key, value in whole.items()}
        broken[name].view(-1)[0] = float("nan")
        save_file(broken, path, metadata={"format": "pt"})
        found = command("curvature", text(run), "--prompts", prompts, "--quiet")
        assert (found.code, found.err.count("\n"), found.out) == (2, 1, "")
        assert says in found.err
        save_file(whole, path, metadata={"format": "pt"})


def test_what_does_not_fit_in_memory_is_refused(
    run: CheckpointPair, prompts: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil

    class Full:
        available = 20_000

    monkeypatch.setattr(psutil, "virtual_memory", Full)
    for name in ("curvature", "gates"):
        found = command(name, text(run), "--prompts", prompts, "--device", "cpu", "--quiet")
        assert (found.code, found.err.count("\n"), found.out) == (2, 1, "")
        assert "are free" in found.err


def test_experts_that_are_merged_are_refused(prompts: Path, command: Command, tmp_path: Path) -> None:
    tiny = Tiny("mixtral", kv_heads=2, group=1, head_dim=8, layers=1, seed=3)
    start = with_tokenizer(tiny.save(tmp_path / "experts", torch.bfloat16))
    both = f"{start}:{train(start, tmp_path / 'end', 0)}"
    found = command("curvature", both, "--prompts", prompts, "--quiet")
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert "no matrix of its own" in found.err
    ask = ("--prompts", prompts, "--length", 8, "--probes", 1, "--modules", "q_proj,o_proj", "--quiet")
    assert command("curvature", both, *ask).code == 0
    assert command("gates", both, "--prompts", prompts, "--length", 8, "--quiet").code == 0
