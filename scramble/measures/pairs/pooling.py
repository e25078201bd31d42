"""Sums of counts over the tensors of a model, a tower, a module or a layer."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

PLACES = ("tower", "layer", "module", "tensor")
_LEVELS: dict[str, list[str]] = {
    "model": [],
    "tower": ["tower"],
    "module": ["tower", "module"],
    "layer": ["tower", "layer"],
    "layer-module": ["tower", "layer", "module"],
    "tensor": ["tower", "layer", "module", "tensor"],
}
LEVELS = tuple(_LEVELS)


def keys_of(level: str, rows: pd.DataFrame) -> list[str]:
    """The columns that a level has a row for each value of; towers only where the model has several."""
    return [name for name in _LEVELS[level] if name in rows or name != "tower"]


def with_places(table: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """A table made of `rows`, with the places that its level sums over left empty, in layers' order."""
    for name in places_in(rows):
        if name not in table:
            table[name] = None
    table["layer"] = table["layer"].astype("Int64")
    return table.sort_values("layer", kind="stable", na_position="first", ignore_index=True)


def places_in(rows: pd.DataFrame) -> list[str]:
    """Names of the columns that say where a row's tensors stand."""
    return [name for name in PLACES if name in rows or name != "tower"]


def pool(counts: pd.DataFrame, level: str, keep: Sequence[str]) -> pd.DataFrame:
    """Sum counts over the tensors of each model, module, layer or (layer, module).

    Args:
        counts: one row a tensor, with the columns of `place`, `tower` and `role` where there are any, the
            `keep` columns, and counts.
        keep: columns that are never summed over (the pair, the frame).
    """
    keys = ["level", *keys_of(level, counts), *keep]
    numbers = [name for name in counts if name not in (*PLACES, "role", *keep)]
    labelled = counts.assign(level=level)
    summed = labelled.groupby(keys, dropna=False, sort=False)[numbers].sum(skipna=False).reset_index()
    return with_places(summed, counts)
