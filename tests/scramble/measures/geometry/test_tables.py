"""`spectra` and `principal` on checkpoints: slow definitions, pooling, selection, what is measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from scramble.errors import SelectionError
from scramble.measures.geometry.principal import count_masks, principal
from scramble.measures.geometry.spectra import measure, singular_value_curves, spectra
from scramble.measures.pairs.ends import CheckpointPair, ends
from scramble.measures.pairs.masks import magnitude_key
from scramble.measures.pairs.selection import Selection, matrices
from tests.fake_runs import train
from tests.models import MODULES, Tiny, weights
from tests.scramble.measures.geometry.weights import both_ends

LEVELS = ["model", "module", "layer", "layer-module", "tensor"]
UP = "model.layers.1.mlp.up_proj.weight"


def test_spectra_are_numpys(run: CheckpointPair) -> None:
    table = spectra(measure(run, 5), ["tensor"]).set_index("tensor")
    assert len(table) == 14
    for name, row in table.iterrows():
        old, new = both_ends(run, str(name))
        (u, s, vt), (u2, s2, vt2) = np.linalg.svd(old), np.linalg.svd(new)
        k = row["rank"]
        assert k == min(5, min(old.shape) // 2)
        assert row["nss"] == pytest.approx(np.linalg.norm(s2 - s) / np.linalg.norm(s), rel=1e-9)
        for side, one, two in (("left", u, u2), ("right", vt.T, vt2.T)):
            cosines = np.linalg.svd(one[:, :k].T @ two[:, :k], compute_uv=False)
            degrees = np.degrees(np.arccos(np.minimum(cosines, 1)))
            assert row[f"angle_{side}_max"] == pytest.approx(degrees.max(), abs=1e-5)
            assert row[f"angle_{side}_mean"] == pytest.approx(degrees.mean(), abs=1e-5)
        assert row["update_spectral_norm"] == pytest.approx(np.linalg.norm(new - old, 2))
        assert 0 < row[["weyl", "hoffman_wielandt", "ky_fan"]].max() <= 1


def test_pooled_spectra_are_those_of_their_matrices(run: CheckpointPair) -> None:
    measured = measure(run, 5)
    tables = spectra(measured, LEVELS)
    each, whole = (tables[tables["level"] == level] for level in ("tensor", "model"))
    model = whole.iloc[0]
    assert model["matrices"] == 14
    start, end = (np.concatenate([getattr(one, side) for one in measured]) for side in ("start", "end"))
    assert model["nss"] == pytest.approx(np.linalg.norm(end - start) / np.linalg.norm(start))
    for side in ("left", "right"):
        every = np.concatenate([getattr(one, f"angles_{side}") for one in measured])
        assert model[f"angle_{side}_max"] == every.max()
        assert model[f"angle_{side}_mean"] == pytest.approx(every.mean())
    assert model["wedin_checked"] == each["wedin_checked"].sum() > 0
    assert 0 < model["wedin"] <= 1
    assert model["wedin_bound"] == each["wedin_bound"].min()
    assert sorted(tables.loc[tables["level"] == "module", "module"]) == MODULES


def test_curves_hold_every_singular_value(run: CheckpointPair) -> None:
    measured = measure(run, 5, Selection(modules=["up_proj"]))
    curves = singular_value_curves(measured)
    one = curves[curves["tensor"] == UP]
    old, new = both_ends(run, UP)
    assert one["sigma_start"].to_numpy() == pytest.approx(np.linalg.svd(old, compute_uv=False))
    assert one["sigma_end"].to_numpy() == pytest.approx(np.linalg.svd(new, compute_uv=False))
    assert one["index"].tolist() == list(range(1, min(old.shape) + 1))
    assert one["angle_left"].notna().sum() == 5


def test_overlaps_are_those_of_a_slow_count(run: CheckpointPair) -> None:
    alphas = (0.05, 0.5)
    table = principal(count_masks(run, 3, alphas, chosen=Selection("1", ["up_proj"])), ["tensor"])
    old, new = both_ends(run, UP)
    changed = old != new
    u, s, vt = np.linalg.svd(old)
    kept = np.abs((u[:, :3] * s[:3]) @ vt[:3])
    words = (weights(run.start.folder)[UP].float().numpy().view(np.uint32) >> 16).astype(np.uint16)
    keys = magnitude_key(words)
    assert set(table["tensor"]) == {UP}
    for alpha in alphas:
        count = round(alpha * old.size)
        low = np.zeros(old.size, dtype=bool)
        low[np.argsort(np.abs(old), axis=None, kind="stable")[:count]] = True
        low = low.reshape(old.shape)
        top = kept >= np.sort(kept, axis=None)[-count]
        expected = {"principal": top, "low_magnitude": low, "safe": low | ~top, "complement": ~top}
        expected["principal_not_low"] = top & ~low
        for kind, mask in expected.items():
            row = table[(table["mask"] == kind) & (table["alpha"] == alpha)].iloc[0]
            inside, m = (mask & changed).sum(), mask.sum()
            matched = sum(changed[keys == keys[at]].mean() for at in zip(*np.nonzero(mask), strict=True))
            assert row["density_mask"] == pytest.approx(mask.mean())
            assert row["density_update"] == pytest.approx(changed.mean())
            assert row["overlap_update"] == pytest.approx(inside / changed.sum())
            assert row["overlap_mask"] == pytest.approx(inside / m)
            assert row["chance_update"] == pytest.approx(mask.mean())
            assert row["chance_mask"] == pytest.approx(changed.mean())
            assert row["magnitude_matched_update"] == pytest.approx(matched / changed.sum())
            assert row["magnitude_matched_mask"] == pytest.approx(matched / m)


def test_ranks_are_limited_to_half_the_smaller_side(run: CheckpointPair) -> None:
    one = Selection("1", ["up_proj"])
    half = min(weights(run.start.folder)[UP].shape) // 2
    pd.testing.assert_frame_equal(count_masks(run, 10_000, chosen=one), count_masks(run, half, chosen=one))


def test_pooled_overlaps_are_ratios_of_sums(run: CheckpointPair) -> None:
    counts = count_masks(run, 3)
    tables = principal(counts, LEVELS)
    mine = counts[counts["mask"] == "safe"]
    row = tables[(tables["level"] == "model") & (tables["mask"] == "safe")].iloc[0]
    assert row["overlap_update"] == mine["both"].sum() / mine["changed"].sum()
    assert row["chance_mask"] == pytest.approx(mine["chance"].sum() / mine["marked"].sum())
    for level in LEVELS[1:]:
        here = tables[(tables["level"] == level) & (tables["mask"] == "safe")]
        assert here["n"].sum() == row["n"]
    random = tables[(tables["level"] == "model") & (tables["mask"] == "random")].iloc[0]
    assert random["density_mask"] == row["density_mask"]
    assert random["overlap_update"] == pytest.approx(random["chance_update"], abs=0.05)


def test_an_update_that_follows_magnitude_alone_is_predicted_by_it(checkpoint: Path, tmp_path: Path) -> None:
    """Weights below 2^-6 change and no others: the key predicts the overlap with every mask exactly."""
    end = tmp_path / "end"
    end.mkdir()
    tensors = {name: torch.where(w.abs() < 2**-6, w * 1.5, w) for name, w in weights(checkpoint).items()}
    save_file(tensors, end / "model.safetensors", metadata={"format": "pt"})
    (end / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    table = principal(count_masks(ends(checkpoint, end), 3), ["tensor"])
    assert table["overlap_update"].notna().any()
    for side in ("update", "mask"):
        pd.testing.assert_series_equal(
            table[f"overlap_{side}"], table[f"magnitude_matched_{side}"], check_names=False
        )


def test_without_a_change_ratios_are_missing_and_angles_zero(checkpoint: Path) -> None:
    still = ends(checkpoint, checkpoint)
    overlaps = principal(count_masks(still, 3), ["model"])
    assert overlaps["overlap_update"].isna().all()
    assert (overlaps["overlap_mask"] == 0).all()
    model = spectra(measure(still, 4), ["model"]).iloc[0]
    assert model["nss"] == model["angle_left_max"] == model["weyl"] == 0


def test_float32_ends_are_read_as_stored(checkpoint: Path, tmp_path: Path) -> None:
    fp32 = train(checkpoint, tmp_path / "fp32", 0)
    run = ends(checkpoint, fp32)
    one = next(one for one in measure(run, 4) if one.tensor == UP)
    assert one.end == pytest.approx(np.linalg.svd(both_ends(run, UP)[1], compute_uv=False))
    for counted in (count_masks(run, 3), count_masks(ends(fp32, checkpoint), 3)):
        assert (counted["magnitude_matched"] <= counted[["marked", "changed"]].min(axis=1) + 1e-9).all()


def test_what_is_measured_is_selected(run: CheckpointPair) -> None:
    inside = matrices(run, Selection())
    assert all(weights(run.start.folder)[name].ndim == 2 for name in inside)
    assert not [name for name in inside if "embed" in name or "lm_head" in name]
    more = set(matrices(run, Selection(embeddings=True))) - set(inside)
    assert more == {"model.embed_tokens.weight", "lm_head.weight"}
    assert matrices(run, Selection(modules=["lm_head"])) == ["lm_head.weight"]
    assert matrices(run, Selection("1", ["up_proj"])) == [UP] == matrices(run, Selection("-1", ["up_proj"]))
    with pytest.raises(SelectionError, match="no matrix is left"):
        matrices(run, Selection("0", ["lm_head"]))


def test_vectors_in_the_shape_of_a_matrix_are_passed_over(tmp_path: Path) -> None:
    base = Tiny("qwen2_moe", 2, 1, 4, layers=1).save(tmp_path / "moe", torch.bfloat16)
    shapes = {name: tuple(value.shape) for name, value in weights(base).items()}
    gate = "model.layers.0.mlp.shared_expert_gate.weight"
    assert shapes[gate][0] == 1
    found = matrices(ends(base, base), Selection())
    assert gate not in found
    assert "model.layers.0.mlp.gate.weight" in found
