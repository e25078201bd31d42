"""KL, Fisher norm, spectral norm and hidden share against slow definitions."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from scramble.measures.curvature.divergence import divergence, fisher_square
from scramble.measures.curvature.gates import gates, leash, norms, spectral_norm, step_of
from scramble.measures.pairs.ends import CheckpointPair, ends
from tests.conftest import Command
from tests.fake_runs import train
from tests.models import Float64, Tiny, weights
from tests.scramble.measures.curvature.conftest import eager, text

TOKENS = torch.randint(0, 31, (5, 6), generator=torch.Generator().manual_seed(1))
TINY = Tiny("qwen2", kv_heads=2, group=2, head_dim=4, layers=2, seed=3, tied=True)


def moved(scale: float) -> PreTrainedModel:
    model, generator = eager(TINY), torch.Generator().manual_seed(7)
    with torch.no_grad():
        for one in model.parameters():
            one.add_(scale * torch.randn(one.shape, generator=generator, dtype=one.dtype))
    return model


def probabilities(model: PreTrainedModel) -> np.ndarray:
    with torch.no_grad(), Float64():
        return model(TOKENS).logits.softmax(-1).numpy()


def test_divergences_are_the_definition() -> None:
    start, end = eager(TINY), moved(0.05)
    p, q = probabilities(start), probabilities(end)
    slow = np.zeros((2, *TOKENS.shape))
    for at in np.ndindex(*TOKENS.shape):
        for v in range(31):
            slow[0][at] += p[at][v] * np.log(p[at][v] / q[at][v])
            slow[1][at] += q[at][v] * np.log(q[at][v] / p[at][v])
    found = divergence(start, end, TOKENS)
    assert found.kl == pytest.approx(slow[0].mean(), rel=1e-10)
    assert found.kl_reverse == pytest.approx(slow[1].mean(), rel=1e-10)
    assert found.kl != pytest.approx(found.kl_reverse, rel=1e-3)
    for error, values in ((found.kl_error, slow[0]), (found.kl_reverse_error, slow[1])):
        assert error == pytest.approx(values.mean(1).std(ddof=1) / np.sqrt(len(TOKENS)), rel=1e-9)


def test_fisher_is_the_mean_square_of_scores_over_labels() -> None:
    """Every label's score by a backward pass, weighted by its probability."""
    start, end = eager(TINY), moved(0.05)
    update = [
        new.detach() - old.detach() for old, new in zip(start.parameters(), end.parameters(), strict=False)
    ]
    parameters, total = list(start.parameters()), 0.0
    with Float64():
        for tokens in TOKENS[:2]:
            logs = start(tokens[None]).logits.log_softmax(-1)[0]
            for row in logs:
                for one in row:
                    grads = torch.autograd.grad(one, parameters, retain_graph=True)
                    score = sum(float((g * d).sum()) for g, d in zip(grads, update, strict=False))
                    total += float(one.detach().exp()) * score**2
    found = divergence(start, end, TOKENS[:2])
    assert found.fisher_square == pytest.approx(total / TOKENS[:2].numel(), rel=1e-9)
    assert found.update_square == pytest.approx(sum(float(d.square().sum()) for d in update), rel=1e-12)


def test_fisher_norm_is_the_root_of_twice_the_divergence_to_first_order() -> None:
    """K = |D|_F^2 / 2 + O(D^3): the ratio's error halves with the step."""
    errors = []
    for scale in (1e-3, 5e-4, 2.5e-4, 1.25e-4):
        found = divergence(eager(TINY), moved(scale), TOKENS)
        errors.append(abs(np.sqrt(found.fisher_square / (2 * found.kl)) - 1))
    assert errors[-1] < 1e-3
    assert all(1.7 < a / b < 2.3 for a, b in itertools.pairwise(errors))


def test_identical_ends_do_not_diverge() -> None:
    found = divergence(eager(TINY), eager(TINY), TOKENS)
    assert (found.kl, found.kl_reverse, found.fisher_square, found.update_square) == (0, 0, 0, 0)
    assert (found.kl_error, found.kl_reverse_error) == (0, 0)


def test_one_sequence_has_no_standard_error() -> None:
    assert np.isnan(divergence(eager(TINY), moved(0.1), TOKENS[:1]).kl_error)


def test_a_common_shift_of_the_logits_moves_nothing() -> None:
    logits = torch.randn(3, 7, dtype=torch.float64)
    assert fisher_square(logits, torch.full((3, 7), 2.5, dtype=torch.float64)).abs().max() < 1e-24


@given(
    rows=st.integers(1, 70),
    columns=st.integers(1, 70),
    seed=st.integers(0, 99),
    scale=st.sampled_from([1e-200, 1e-6, 1.0, 1e200]),
    rank=st.integers(0, 4),
)
def test_spectral_norm_is_the_largest_singular_value(
    rows: int, columns: int, seed: int, scale: float, rank: int
) -> None:
    rng = np.random.default_rng(seed)
    matrix = scale * (rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns)))
    if rank == 4:
        matrix = scale * rng.standard_normal((rows, columns))
    assert spectral_norm(matrix) == pytest.approx(np.linalg.norm(matrix / scale, 2) * scale, rel=2e-9)


def test_a_spectral_norm_that_lanczos_misses_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = np.diag(np.linspace(0.5, 1, 50))
    monkeypatch.setattr("scramble.measures.curvature.gates.eigsh", lambda *a, **k: np.array([0.95]))
    assert spectral_norm(matrix) == pytest.approx(1, rel=1e-12)


def test_norms_and_hidden_shares_are_the_definition(run: CheckpointPair) -> None:
    found = norms([run]).set_index("tensor")
    old, new = weights(run.start.folder), weights(run.end.folder)
    assert len(found) == 14
    for name, row in found.iterrows():
        start, end = old[name].double(), new[name].double()
        delta, stored = end - start, new[name].bfloat16().double()
        assert row["update_square"] == pytest.approx(float((delta**2).sum()), rel=1e-12)
        assert row["moved"] == int((delta != 0).sum()) < delta.numel()
        assert row["hidden"] == int(((delta != 0) & (stored == start)).sum())
        assert row["hidden_square"] == pytest.approx(
            float(((delta - (stored - start)) ** 2).sum()), rel=1e-12
        )
    table = gates(norms([run]), leash([run], prompts_of(run)), ["model", "layer"])
    model = table[table["level"] == "model"].iloc[0]
    assert model["hidden"] == found["hidden"].sum() / found["moved"].sum()
    assert model["hidden_square"] == pytest.approx(
        found["hidden_square"].sum() / found["update_square"].sum()
    )
    assert model["update_norm"] == pytest.approx(np.sqrt(found["update_square"].sum()))
    assert model["spectral_norm"] == found["spectral_norm"].max()
    assert 0.1 < model["hidden"] < 0.9
    layer = found[found["layer"] == 1]
    row = table[(table["level"] == "layer") & (table["layer"] == 1)].iloc[0]
    assert row["hidden"] == layer["hidden"].sum() / layer["moved"].sum()
    assert np.isnan(row["kl"])


def prompts_of(run: CheckpointPair) -> Path:
    path = run.start.folder.with_name("own.txt")
    path.write_text("12+3=15\n" * 8)
    return path


def test_what_bf16_hid_is_not_known_from_bf16_ends(run: CheckpointPair, tmp_path: Path) -> None:
    stored = ends(run.start.folder, train(run.start.folder, tmp_path / "bf16", 0, torch.bfloat16))
    assert norms([stored])[["hidden", "hidden_square"]].isna().all(axis=None)
    again = tmp_path / "as-float32"  # bf16 values in a float32 file
    train(run.start.folder, again, 0)
    tensors = load_file(again / "model.safetensors")
    save_file({k: v.bfloat16().float() for k, v in tensors.items()}, again / "model.safetensors")
    assert norms([ends(run.start.folder, again)])[["hidden", "hidden_square"]].isna().all(axis=None)
    off_grid = norms([ends(run.end.folder, train(run.end.folder, tmp_path / "further", 1))])
    assert off_grid[["hidden", "hidden_square"]].isna().all(axis=None)
    same = gates(norms([ends(run.start.folder, run.start.folder)]), leash([run], prompts_of(run)), ["model"])
    assert same["update_norm"].item() == 0
    assert np.isnan(same["hidden"].item())


def test_steps_are_read_from_names() -> None:
    assert step_of("/a/step-200/fp32") == 200
    assert step_of("/a/end") is None


def test_command_gives_a_row_a_run_and_level(
    run: CheckpointPair, prompts: Path, command: Command, tmp_path: Path
) -> None:
    other = train(run.start.folder, tmp_path / "step-7", 1)
    plot = tmp_path / "f.svg"
    ask = (
        "gates",
        text(run),
        f"{run.start.folder}:{other}",
        "--prompts",
        prompts,
        "--length",
        8,
        "--plot",
        plot,
    )
    found = command(*ask, "--format", "json", "--quiet", "--by", "model,module")
    assert (found.code, found.err) == (0, "")
    rows = found.json["rows"]
    assert [row["step"] for row in rows if row["level"] == "model"] == [3, 7]
    assert len(rows) == 2 + 2 * 7
    assert all((row["kl"] is not None) == (row["level"] == "model") for row in rows)
    assert found.json["meta"]["sequences"] == 4
    content = plot.read_bytes()
    assert content.startswith(b"<svg")
    assert b"nan" not in content.lower()
    exact = command(*ask, "--format", "json", "--quiet", "--dtype", "float64").json["rows"]
    assert exact[0]["kl"] == pytest.approx(rows[0]["kl"], rel=1e-3)
    assert exact[0]["kl"] != rows[0]["kl"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--prompts FILE is needed"),
        (["--prompts", "no.txt"], "no.txt: cannot be read"),
        (["--prompts", "own.txt", "--layers", "7"], "outside this model's layers"),
        (["--prompts", "own.txt", "--modules", "q"], "no matrix 'q' here"),
        (["--prompts", "own.txt", "--device", "nowhere"], "--device nowhere: not here"),
        (["--prompts", "own.txt", "--plot", "f.pdf"], ".svg or .png"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(
    run: CheckpointPair, command: Command, arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(prompts_of(run).parent)
    found = command("gates", text(run), *arguments)
    assert (found.code, found.err.count("\n"), found.out) == (2, 1, "")
    assert says in found.err


def test_a_run_listed_twice_is_refused(run: CheckpointPair, command: Command) -> None:
    found = command("gates", text(run), text(run), "--prompts", prompts_of(run))
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert "list every run once" in found.err


def test_infinite_weights_are_refused(run: CheckpointPair, command: Command) -> None:
    tensors = load_file(run.end.folder / "model.safetensors")
    for name, says in (
        ("model.norm.weight", "logits are not finite"),
        ("model.layers.0.mlp.up_proj.weight", "inf"),
    ):
        broken = {k: v.clone() for k, v in tensors.items()}
        broken[name].view(-1)[0] = float("inf")
        save_file(broken, run.end.folder / "model.safetensors")
        found = command("gates", text(run), "--prompts", prompts_of(run), "--quiet")
        assert (found.code, found.err.count("\n"), found.out) == (2, 1, "")
        assert says in found.err
