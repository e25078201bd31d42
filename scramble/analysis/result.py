"""What a measure gives: a data frame that carries what it was made from, and what its columns mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from scramble.columns import described
from scramble.measures.pairs.ends import CheckpointPair


def result(
    measure: str, table: pd.DataFrame, meta: Mapping[str, Any], runs: Sequence[CheckpointPair]
) -> pd.DataFrame:
    """The table, with attributes.

    Returns:
        The same rows. `attrs["meta"]` says what was measured; `attrs["columns"]` is unit, definition and
        source of every column; `attrs["left_out"]` names tensors that are no weights or are not read, with
        the reason.
    """
    out = left_out(runs)
    told = "; ".join(f"{name} ({why})" for name, why in sorted(out.items()))
    table.attrs = {
        "measure": measure,
        "meta": {**meta, **({"left_out": told} if out else {})},
        "columns": described(measure, list(table)),
        "left_out": out,
    }
    return table


def left_out(runs: Sequence[CheckpointPair]) -> dict[str, str]:
    """Tensors of the runs' ends that are no weights or are not read, and why."""
    return {name: why for run in runs for end in (run.start, run.end) for name, why in end.left_out.items()}
