"""What a run's metrics come to: the reward where there is one, else the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]


def measured(rows: Sequence[Row]) -> tuple[str, list[float]]:
    """`reward` and its values in the steps that sampled, or `loss` and its values."""
    rewards = [row["reward"] for row in rows if "reward" in row]
    return ("reward", rewards) if rewards else ("loss", [row["loss"] for row in rows if "loss" in row])


def first_and_last(rows: Sequence[Row]) -> Row:
    """`reward_first` and `reward_last`, or `loss_first` and `loss_last`; None without a row."""
    name, values = measured(rows)
    first, last = (values[0], values[-1]) if values else (None, None)
    return {f"{name}_first": first, f"{name}_last": last}


def first_and_last_quarter(rows: Sequence[Row]) -> Row:
    """Mean `reward_first` and `reward_last` (or `loss_...`) of a quarter of the steps that have one.

    Steps whose value was not finite are left out; both are None where none is left.
    """
    name, every = measured(rows)
    values = [value for value in every if value is not None]
    quarter = max(1, len(values) // 4)
    first, last = values[:quarter], values[-quarter:]
    return {
        f"{name}_first": sum(first) / len(first) if first else None,
        f"{name}_last": sum(last) / len(last) if last else None,
    }


def before_and_after(evaluation: Row | None) -> dict[str, float]:
    """`pass@k_before` and `pass@k_after`, the rows of the first and the last step."""
    rows = evaluation["rows"] if evaluation else []
    steps = [row["step"] for row in rows]
    ends = {min(steps): "before", max(steps): "after"} if steps else {}
    return {f"pass@{row['k']}_{ends[row['step']]}": row["pass"] for row in rows if row["step"] in ends}


def shown(row: Row) -> str:
    """`reward 0.25` or `loss 1.50`, for a line of progress."""
    name = "reward" if "reward" in row else "loss"
    return f"{name} {'not finite' if row[name] is None else format(row[name], '.2f')}"
