"""The tables behind `scramble gates`: the KL leash, norms of the update, what bf16 storage hides of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import linalg
from scipy.sparse.linalg import ArpackNoConvergence, eigsh

from scramble.checkpoints import STORAGES
from scramble.errors import SelectionError
from scramble.measures.curvature.divergence import divergence
from scramble.measures.curvature.model import DTYPES, check_room, device_of, load_model, weights_in
from scramble.measures.geometry.subspaces import EPS
from scramble.measures.pairs.ends import CheckpointPair
from scramble.measures.pairs.masks import changed
from scramble.measures.pairs.pooling import keys_of, places_in, with_places
from scramble.measures.pairs.selection import Selection, matrices, read_ends
from scramble.models.prompts import LENGTH, MOST_SEQUENCES, read_prompts
from scramble.runfolder import step_of
from scramble.symmetries.draws import generator

if TYPE_CHECKING:
    from jaxtyping import Float64
    from transformers import PreTrainedModel

Progress = Callable[[int, int], None]
_SUMS = ["matrices", "n", "update_square", "moved", "hidden", "hidden_square"]
_ENOUGH = 1e-9  # the certificate of a spectral norm, relative


def update_counts(run: CheckpointPair, name: str) -> dict[str, object]:
    """What one matrix adds to the figures, in float64.

    `moved` are weights whose update is not zero, `hidden` those of them whose bf16 bits did not change;
    `hidden_square` is `||dW - (bf16(W+) - W0)||_F^2`. NaN where a start is off the bf16 grid, and where an
    end is on it although it moved: what rounding hid there is lost.
    """
    start, end = read_ends(run, name)
    delta, words = end - start, run.read(name, "raw")
    moved = delta != 0
    known = np.array_equal(start, STORAGES["BF16"].decode(words.start)) and (words.fine or not moved.any())
    hidden = moved & ~changed(words.start, words.end)
    lost = end - STORAGES["BF16"].decode(words.end)
    return run.where(name) | {
        "matrices": 1,
        "n": delta.size,
        "update_square": float(np.sum(delta**2)),
        "spectral_norm": spectral_norm(delta),
        "moved": int(np.count_nonzero(moved)),
        "hidden": float(np.count_nonzero(hidden)) if known else np.nan,
        "hidden_square": float(np.sum(lost**2)) if known else np.nan,
    }


def spectral_norm(matrix: Float64[np.ndarray, "rows columns"]) -> float:
    """The largest singular value, to a relative 1e-9.

    Lanczos on the Gram matrix `G` of the smaller side finds it from below; that `(1 + 1e-9) lambda I - G` has
    a Cholesky factor shows that nothing lies above. Where that fails, a full SVD decides.
    """
    small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    largest = np.abs(small).max()
    if largest == 0:
        return 0.0
    small = small / largest  # no square under- or overflows
    gram = small @ small.T
    n = len(gram)
    if n > 32:
        try:
            first = generator(0, "spectral-norm", None).standard_normal(n)
            value = float(eigsh(gram, k=1, which="LA", v0=first, return_eigenvectors=False)[0])
        except ArpackNoConvergence:
            value = 0.0
        above = value * (1 + _ENOUGH) - n * EPS * value
        gram[np.diag_indices(n)] -= above
        if linalg.lapack.dpotrf(-gram, lower=1, clean=0, overwrite_a=1)[1] == 0:
            return float(largest * np.sqrt(value))
    return float(largest * linalg.svdvals(small, check_finite=False)[0])


def norms(
    runs: Sequence[CheckpointPair],
    chosen: Selection | None = None,
    progress: Progress = lambda done, total: None,
) -> pd.DataFrame:
    """`update_counts` of every chosen matrix of every run; runs are numbered from 1.

    Raises:
        SelectionError: nothing to measure, or two runs with one END.
    """
    ends = [run.name for run in runs]
    if twice := [name for name in ends if ends.count(name) > 1]:
        raise SelectionError(f"{twice[0]}: the END of two runs; list every run once")
    work = [
        (at, run, name) for at, run in enumerate(runs, 1) for name in matrices(run, chosen or Selection())
    ]
    rows = []
    for done, (at, run, name) in enumerate(work):
        rows.append({"run": at, "step": step_of(run.name)} | update_counts(run, name))
        progress(done + 1, len(work))
    return pd.DataFrame(rows).astype({"step": "Int64"})


def leash(
    runs: Sequence[CheckpointPair],
    prompts: Path,
    *,
    length: int = LENGTH,
    most: int = MOST_SEQUENCES,
    dtype: str = "float32",
    device: str | None = None,
    progress: Progress = lambda done, total: None,
) -> pd.DataFrame:
    """`Divergence` of every run, on the same text; two models are in memory.

    Args:
        length, most: tokens of a sequence, and how many sequences of the text at most.
        dtype: float32 or float64, of the models; log-probabilities and sums are float64.

    Raises:
        SelectionError: no prompts, or no such device.
        UndecidedError: no room, no model, or logits that are not finite.
    """
    import torch

    where, kind = device_of(device), DTYPES[dtype]
    rows = []
    model: PreTrainedModel | None = None
    for done, run in enumerate(runs):
        tokens = read_prompts(run.start.folder, prompts, length, most)
        if model is None or run.start.folder != runs[done - 1].start.folder:
            model = None
            check_room(run.start, 2 * kind.itemsize * weights_in(run.start), where)
            model = load_model(run.start, kind, where)
        end = load_model(run.end, kind, where)
        found = divergence(model, end, torch.from_numpy(tokens).to(where))
        rows.append({"run": done + 1, "sequences": len(tokens), "tokens": tokens.size} | asdict(found))
        progress(done + 1, len(runs))
    return pd.DataFrame(rows)


def gates(
    counts: pd.DataFrame, leashes: pd.DataFrame, levels: Sequence[str] = ("model", "module", "layer")
) -> pd.DataFrame:
    """All figures at each level, from `norms` and `leash`.

    `update_norm` is `||dW||_F` (root of summed squares), `spectral_norm` the largest `||dW||_2`, `hidden`
    the fraction of the moved weights whose bf16 bits did not change, `hidden_square` the fraction of the
    squared norm that storage takes away, `||dW - (bf16(W+) - W0)||^2 / ||dW||^2` (it can exceed 1: rounding
    up also errs). Rows of the level `model` also have the divergences in nats a token, `kl_norm = sqrt(2
    K)`, `fisher_norm = sqrt(D^T F D)`, their ratio, and `rayleigh = D^T F D / ||D||^2`: those are of the
    whole model, embeddings, norms and biases included, whatever was selected.
    """
    parts = [_pooled(counts, level) for level in levels]
    whole = leashes.copy()
    whole["kl_norm"] = np.sqrt(2 * whole["kl"].clip(lower=0))
    whole["fisher_norm"] = np.sqrt(whole["fisher_square"])
    whole["fisher_over_kl_norm"] = whole["fisher_norm"] / whole["kl_norm"].where(whole["kl_norm"] > 0)
    whole["rayleigh"] = whole["fisher_square"] / whole["update_square"].where(whole["update_square"] > 0)
    columns = ["kl", "kl_error", "kl_reverse", "kl_reverse_error", "kl_norm", "fisher_norm"]
    whole = whole[["run", *columns, "fisher_over_kl_norm", "rayleigh"]].assign(level="model")
    return pd.concat(parts, ignore_index=True).merge(whole, on=["level", "run"], how="left")


def _pooled(counts: pd.DataFrame, level: str) -> pd.DataFrame:
    keys = ["run", "step", *keys_of(level, counts)]
    groups = counts.groupby(keys, dropna=False, sort=False)
    found = groups[_SUMS].sum(skipna=False)
    found["spectral_norm"] = groups["spectral_norm"].max()
    found = found.reset_index().assign(level=level)
    found["update_norm"] = np.sqrt(found["update_square"])
    found["hidden"] /= found["moved"].where(found["moved"] > 0)
    found["hidden_square"] /= found["update_square"].where(found["update_square"] > 0)
    columns = ["level", *places_in(counts), "run", "step", "matrices", "n", "update_norm", "spectral_norm"]
    return with_places(found, counts)[[*columns, "hidden", "hidden_square"]]
