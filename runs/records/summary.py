"""What a run's metrics come to: the reward where there is one, else the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scramble.runrecord import Evaluation, Row


def measured(rows: Sequence[Row]) -> tuple[str, list[float]]:
    """`reward` and its values in the steps that sampled, or `loss` and its values."""
    rewards = [row["reward"] for row in rows if "reward" in row]
    return ("reward", rewards) if rewards else ("loss", [row["loss"] for row in rows if "loss" in row])


def first_and_last(rows: Sequence[Row]) -> Row:
    """`reward_first` and `reward_last`, or `loss_first` and `loss_last`; None without a row."""
    name, values = measured(rows)
    first, last = (values[0], values[-1]) if values else (None, None)
    return {f"{name}_first": first, f"{name}_last": last}


def stood_still(rows: Sequence[Row]) -> str | None:
    """What to say of a run without a gradient in any step; None where there was one."""
    if not rows or any(row.get("grad_norm") != 0 for row in rows):
        return None
    return (
        "every gradient was zero, so no weight changed: all answers to a prompt had one reward. "
        "An easier task or more generations give a gradient, and so does sft"
    )


def quarters(rows: Sequence[Row], name: str) -> Row:
    """`NAME_first` and `NAME_last`: means over the first and the last quarter of the steps that have it.

    Steps whose value was not finite are left out; both are None where none is left.
    """
    values = [row[name] for row in rows if row.get(name) is not None]
    quarter = max(1, len(values) // 4)
    first, last = values[:quarter], values[-quarter:]
    return {
        f"{name}_first": sum(first) / len(first) if first else None,
        f"{name}_last": sum(last) / len(last) if last else None,
    }


def before_and_after(evaluation: Evaluation | None, last: int) -> dict[str, float]:
    """`pass@k_before` and `pass@k_after`: of step 0 and of the last step, as far as they were evaluated."""
    rows = evaluation.rows if evaluation else []
    ends = {0: "before", last: "after"}
    return {f"pass@{row.k}_{ends[row.step]}": row.rate for row in rows if row.step in ends}


def shown(row: Row) -> str:
    """`reward 0.25` or `loss 1.50`, for a line of progress."""
    name = "reward" if "reward" in row else "loss"
    return f"{name} {'not finite' if row[name] is None else format(row[name], '.2f')}"
