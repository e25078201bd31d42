"""How many of several runs changed a coordinate (consensus ratio, arXiv 2511.08567, 2.2 and figure 2).

The share of coordinates that c of K runs changed, beside the share expected if runs were independent:
`chance`, each run with its own density in the tensor; `magnitude_matched`, each run with its own change rate
for the weight's magnitude key. Both are Poisson-binomial distributions; pooled figures are sums over tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, UInt16

from scramble.errors import MismatchError, SelectionError
from scramble.measures.pairs.ends import CheckpointPair, Frame, comparable
from scramble.measures.pairs.masks import changed, magnitude_key
from scramble.measures.pairs.pooling import places_in, pool
from scramble.measures.pairs.selection import Selection, matrices
from scramble.measures.pairs.streams import Update

Progress = Callable[[int, int], None]
Keep = Callable[[str, "Bool[np.ndarray, 'runs ...']"], None]
_BLOCK = 1 << 18


def count_consensus(
    runs: Sequence[CheckpointPair],
    frame: Frame,
    chosen: Selection,
    progress: Progress = lambda done, total: None,
    keep: Keep = lambda tensor, masks: None,
) -> pd.DataFrame:
    """Counts that add up: a row for each tensor and each number of runs, 0 to K.

    Args:
        chosen: which tensors, vectors and stacks of matrices among them.
        keep: called with every tensor's masks, run by run, in the tensor's own shape.

    Returns:
        `changed_by`; `count`, weights that so many runs changed; `chance`, `magnitude_matched`, their
        expected numbers; `n`, the tensor's weights.

    Raises:
        SelectionError: fewer than two runs, or one twice; a layer or module that is not there.
        MismatchError: the runs are not of one model, or in the aligned frame not of one base.
    """
    if len(runs) < 2:
        raise SelectionError("consensus needs two runs or more, each START:END")
    comparable(runs)
    names = matrices(runs[0], chosen, every=True)
    rows: list[dict[str, object]] = []
    for done, name in enumerate(names):
        masks, keys = _read(runs, name, frame)
        keep(name, masks)
        count = _observed(masks)
        chance = masks[0].size * poisson_binomial(_densities(masks)[:, None])[:, 0]
        matched = _matched(masks, keys)
        rows += [
            runs[0].where(name)
            | {"frame": frame, "runs": len(runs), "changed_by": by, "n": masks[0].size}
            | {"count": int(count[by]), "chance": chance[by], "magnitude_matched": matched[by]}
            for by in range(len(count))
        ]
        progress(done + 1, len(names))
    return pd.DataFrame(rows)


def consensus(counts: pd.DataFrame, levels: Sequence[str] = ("model", "module")) -> pd.DataFrame:
    """Shares of coordinates by the number of runs that changed them, from `count_consensus`."""
    parts = [pool(counts, level, ["frame", "runs", "changed_by"]) for level in levels]
    pooled = pd.concat(parts, ignore_index=True)
    found = pooled[["level", *places_in(pooled), "frame", "runs", "n", "changed_by"]].copy()
    found["share"] = pooled["count"] / pooled["n"]
    for baseline in ("chance", "magnitude_matched"):
        found[baseline] = pooled[baseline] / pooled["n"]
    return found


def poisson_binomial(p: Float64[np.ndarray, "runs m"]) -> Float64[np.ndarray, "counts m"]:
    """P(0), ..., P(K) of how many of K independent events happen, for each of m sets of probabilities."""
    found = np.zeros((len(p) + 1, p.shape[1]))
    found[0] = 1
    for done, one in enumerate(p):
        moved = found[: done + 1] * one
        found[: done + 1] -= moved
        found[1 : done + 2] += moved
    return found


def _read(
    runs: Sequence[CheckpointPair], name: str, frame: Frame
) -> tuple[Bool[np.ndarray, "runs ..."], list[UInt16[np.ndarray, " n"]]]:
    """Masks, and magnitude keys (one array where starts agree)."""
    shape = runs[0].start.tensors[name].shape
    masks = np.empty((len(runs), *shape), bool)
    keys: list[UInt16[np.ndarray, " n"]] = []
    first: Update | None = None
    for number, run in enumerate(runs):
        update = run.read(name, frame)
        masks[number] = changed(update.start, update.end)
        first = update if first is None else first
        if frame == "aligned" and not np.array_equal(update.start, first.start):
            raise MismatchError(
                f"'{name}': {run.name} and {runs[0].name} do not come from one base, so they share no frame"
            )
        key = magnitude_key(update.start, update.values).reshape(-1)
        keys.append(keys[0] if number and np.array_equal(key, keys[0]) else key)
    return masks, keys


def _observed(masks: Bool[np.ndarray, "runs ..."]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    by = masks.sum(axis=0, dtype=np.uint16)
    return np.bincount(by.reshape(-1), minlength=len(masks) + 1)


def _densities(masks: Bool[np.ndarray, "runs ..."]) -> Float64[np.ndarray, " runs"]:
    return np.array([np.count_nonzero(mask) / max(mask.size, 1) for mask in masks])


def _matched(
    masks: Bool[np.ndarray, "runs ..."], keys: Sequence[UInt16[np.ndarray, " n"]]
) -> Float64[np.ndarray, " counts"]:
    """Expected numbers of weights under each run's change rate by magnitude key.

    Where all runs start from the same weights, weights of one key are alike; else each is taken by itself.
    """
    rates, most = [], max(int(key.max(initial=0)) for key in keys) + 1
    for mask, key in zip(masks, keys, strict=True):
        held = np.bincount(key, minlength=most)
        moved = np.bincount(key[mask.reshape(-1)], minlength=most)
        rates.append(moved / np.maximum(held, 1))
    if all(key is keys[0] for key in keys):
        found: Float64[np.ndarray, " counts"] = poisson_binomial(np.array(rates)) @ np.bincount(
            keys[0], minlength=most
        )
        return found
    total = np.zeros(len(masks) + 1)
    for at in range(0, len(keys[0]), _BLOCK):
        p = np.array([rate[key[at : at + _BLOCK]] for rate, key in zip(rates, keys, strict=True)])
        total += poisson_binomial(p).sum(axis=1)
    return total
