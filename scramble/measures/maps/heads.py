"""Where heads begin along the rows and columns of a matrix, by the axes of its family's layout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from scramble.architecture.axes import Axis, Layout, Product, Sizes, Term
from scramble.checkpoints import Checkpoint

_HEADS = ("kv_head", "group")


@dataclass(frozen=True)
class Boundary:
    """A line between two heads.

    Attributes:
        at: index of the first row (or column) behind it.
        heavy: between KV groups, or between the parts of a fused projection; else between heads of one group.
    """

    at: int
    heavy: bool


def boundaries(checkpoint: Checkpoint, tensor: str, dimension: int) -> tuple[Boundary, ...]:
    """Head boundaries of a matrix, or of each of a stack, along a dimension; none where there is no head.

    Raises:
        UnknownFamilyError: no table describes the checkpoint.
    """
    slot = checkpoint.architecture.slots()[tensor]
    return head_boundaries(slot.layout, slot.sizes, slot.layout.stacked + dimension)


def head_boundaries(layout: Layout, sizes: Sizes, dimension: int) -> tuple[Boundary, ...]:
    """The same for a layout.

    >>> from scramble.architecture.axes import parse
    >>> sizes = {"kv_head": 2, "group": 2, "qk": 8, "hidden": 32}
    >>> head_boundaries(parse("(kv_head group qk) hidden"), sizes, 0)
    (Boundary(at=8, heavy=False), Boundary(at=16, heavy=True), Boundary(at=24, heavy=False))
    """
    return tuple(_inside(layout.dims[dimension], sizes))


def _inside(term: Term, sizes: Sizes) -> Iterator[Boundary]:
    """Boundaries strictly inside a term, in order."""
    if isinstance(term, Axis):
        if term.name in _HEADS:
            for at in range(1, term.size(sizes)):
                yield Boundary(at, term.name == "kv_head")
    elif isinstance(term, Product):
        yield from _repeated(term.parts, sizes)
    elif _heads(term):
        start = 0
        for part in term.parts:
            if start:
                yield Boundary(start, "kv_head" in _heads(term))
            yield from (Boundary(start + one.at, one.heavy) for one in _inside(part, sizes))
            start += part.size(sizes)


def _repeated(parts: tuple[Term, ...], sizes: Sizes) -> Iterator[Boundary]:
    """The first part's boundaries, as far apart as the rest is long, and the rest's in each place."""
    first, rest = parts[0], parts[1:]
    if not rest:
        yield from _inside(first, sizes)
        return
    stride = Product(rest).size(sizes)
    between = {one.at: one.heavy for one in _inside(first, sizes)}
    within = tuple(_repeated(rest, sizes))
    for place in range(first.size(sizes)):
        if place in between:
            yield Boundary(place * stride, between[place])
        yield from (Boundary(place * stride + one.at, one.heavy) for one in within)


def _heads(term: Term) -> frozenset[str]:
    """The axes of heads in a term."""
    if isinstance(term, Axis):
        return frozenset({term.name} & set(_HEADS))
    return frozenset().union(*(_heads(part) for part in term.parts))
