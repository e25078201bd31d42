"""The table behind `scramble principal`: how an update's mask overlaps the masks of its start's geometry."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64

from scramble.measures.geometry.masks import all_masks
from scramble.measures.geometry.subspaces import PRINCIPAL_RANK, limited
from scramble.measures.pairs.ends import CheckpointPair
from scramble.measures.pairs.pooling import places_in, pool
from scramble.measures.pairs.selection import Selection, matrices, read_ends
from scramble.measures.updates.counts import Matched, matched

Masks = dict[str, Bool[np.ndarray, "rows columns"]]
Progress = Callable[[int, int], None]
Visit = Callable[[str, float, Masks], None]
SWEEP = (0.05, 0.3, 0.5)
_KEEP = ["mask", "alpha"]


def count_masks(
    run: CheckpointPair,
    rank: int = PRINCIPAL_RANK,
    alphas: Sequence[float] = (0.5,),
    seed: int = 0,
    chosen: Selection | None = None,
    progress: Progress = lambda done, total: None,
    visit: Visit = lambda tensor, alpha, masks: None,
) -> pd.DataFrame:
    """Additive counts, one row a matrix, mask and alpha; each matrix is read once.

    Args:
        rank: of the reconstruction, limited to half the smaller side of each matrix.
        alphas: shares of a matrix that the principal and the low-magnitude mask take.
        seed: of the random mask.
        visit: is handed every matrix's masks, by kind, for each alpha; those of a stack in its order.

    Raises:
        SelectionError: nothing to measure.
        CheckpointError: a matrix with infinite or NaN values.
    """
    return count_masks_together([run], rank, alphas, seed, chosen, progress, visit)[0]


def count_masks_together(
    runs: Sequence[CheckpointPair],
    rank: int = PRINCIPAL_RANK,
    alphas: Sequence[float] = (0.5,),
    seed: int = 0,
    chosen: Selection | None = None,
    progress: Progress = lambda done, total: None,
    visit: Visit = lambda tensor, alpha, masks: None,
) -> list[pd.DataFrame]:
    """`count_masks` of several runs with the same tensors; masks of a start that they share are made once."""
    names = matrices(runs[0], chosen or Selection())
    rows: list[list[dict[str, object]]] = [[] for _ in runs]
    for done, name in enumerate(names):
        last: tuple[Float64[np.ndarray, "rows columns"], list[Masks]] | None = None
        for found, run in zip(rows, runs, strict=True):
            start, _ = read_ends(run, name)
            if last is None or not np.array_equal(last[0], start):
                last = start, all_masks(start, limited(rank, start.shape), alphas, seed, name)
                for alpha, named in zip(alphas, last[1], strict=True):
                    visit(name, alpha, named)
            update = matched(run.read(name, "raw"))
            found += [
                run.where(name) | {"mask": kind, "alpha": alpha} | _counts(mask.reshape(-1), update)
                for alpha, named in zip(alphas, last[1], strict=True)
                for kind, mask in named.items()
            ]
        progress(done + 1, len(names))
    return [pd.DataFrame(found) for found in rows]


def principal(counts: pd.DataFrame, levels: Sequence[str] = ("model", "module", "layer")) -> pd.DataFrame:
    """Overlaps at each level, from `count_masks` (arXiv 2511.08567, 4.2 and 4.3).

    `overlap_update` is `|Mx and M| / |M|`, the paper's overlap ratio: the share of the changed weights that
    lie in the mask; `overlap_mask` is `|Mx and M| / |Mx|`, the share of the mask that changed. Behind each
    stand `chance_`, were the changes of every matrix spread evenly over it, and `magnitude_matched_`, had
    every magnitude key of a matrix its own change rate. Pooled
    baselines are sums over matrices, so a module's chance is chance within its matrices.
    """
    parts = []
    for level in levels:
        c = pool(counts, level, _KEEP)
        found = c[["level", *places_in(c), *_KEEP, "n"]].copy()
        found["density_mask"], found["density_update"] = c["marked"] / c["n"], c["changed"] / c["n"]
        for name, bottom in (("update", c["changed"]), ("mask", c["marked"])):
            whole = bottom.where(bottom > 0)
            found[f"overlap_{name}"] = c["both"] / whole
            found[f"chance_{name}"] = c["chance"] / whole
            found[f"magnitude_matched_{name}"] = c["magnitude_matched"] / whole
        parts.append(found)
    return pd.concat(parts, ignore_index=True)


def _counts(mask: Bool[np.ndarray, " n"], update: Matched) -> dict[str, object]:
    marked, changed = int(np.count_nonzero(mask)), int(np.count_nonzero(update.mask))
    expected = np.bincount(update.key[mask], minlength=len(update.rate)) @ update.rate
    return {
        "n": mask.size,
        "marked": marked,
        "changed": changed,
        "both": int(np.count_nonzero(mask & update.mask)),
        "chance": marked * changed / mask.size,
        "magnitude_matched": float(expected),
    }
