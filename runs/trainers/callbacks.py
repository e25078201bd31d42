"""The order in which a trainer calls its callbacks: each class says what it comes after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from transformers import TrainerCallback

from scramble.errors import RunError
from scramble.internals.transformers import called


class Callback(TrainerCallback):
    """A callback of ours.

    Attributes:
        after: classes whose callbacks a trainer must call before this one. `TrainerCallback` stands for every
            other one, those of TRL and of trackers too: such a callback is the last.
    """

    after: ClassVar[tuple[type[TrainerCallback], ...]] = ()


def in_order(callbacks: Sequence[Callback]) -> list[Callback]:
    """Callbacks as they must be called; those that ask for nothing of each other stay as they stand.

    Raises:
        RunError: two that both must come after the other, or more in a circle.
    """
    waiting, placed = list(callbacks), list[Callback]()
    while waiting:
        free = [one for one in waiting if not any(_follows(one, other) for other in waiting)]
        if not free:
            names = ", ".join(type(one).__name__ for one in waiting)
            raise RunError(f"callbacks: no order is what all of these ask for: {names}")
        placed.append(free[0])
        waiting.remove(free[0])
    return placed


def check_order(trainer: Any, callbacks: Sequence[Callback]) -> None:
    """Whether a trainer calls these callbacks once each, and in an order that suits all, TRL's among them.

    Raises:
        RunError: it does not.
    """
    order = called(trainer)
    for one in callbacks:
        if (times := sum(one is other for other in order)) != 1:
            raise RunError(f"callbacks: the trainer calls {type(one).__name__} {times} times, and not once")
    for place, one in enumerate(order):
        for later in order[place + 1 :]:
            if _follows(one, later):
                raise RunError(
                    f"callbacks: the trainer calls {type(later).__name__} after {type(one).__name__}, "
                    "which must come after it"
                )


def _follows(one: TrainerCallback, other: TrainerCallback) -> bool:
    """Whether one callback must be called after another."""
    return isinstance(one, Callback) and one is not other and isinstance(other, one.after)
