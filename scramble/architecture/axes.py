"""Named axes: the notation in which a family says which tensor carries which axis.

The notation extends einops. `"(kv_head group qk) hidden"` is a matrix whose rows are the product of three
axes, the last running fastest. `+` is a direct sum of unequal parts, which einops cannot say:
`"(kv_head (group qk + qk + v)) hidden"` is a fused projection, head after head.

`|qk|` is a gain on an axis: a factor for each channel. It moves with the channel, a change of the channel's
sign leaves it alone, and a rotation only where all channels have the same factor.

`v*` is the dual of an axis: what reads `v` where another tensor writes it, or a key beside a query. Rotations
and permutations act on both alike; a change of scale acts on the dual by its inverse.

`neuron~` is an axis beside a nonlinearity: its channels may trade places and nothing else.

`[expert]` is an axis of a stack: `"[expert] hidden neuron"` is one matrix an expert and `"[expert] hidden"`
one vector, where `"expert hidden"` is a matrix with a row an expert. Elements act on all axes alike.

An axis may also stand in a tensor's *name*: `experts.{expert}.down_proj.weight` is one tensor an expert, and
`norms.{kv_head group}.weight` one a head, counted with the last axis running fastest.

A layout opens a stored array into *views*, one for each summand, whose dimensions are single named axes.
A group element acts on such a view and need not know how the tensor was flattened.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Sizes = Mapping[str, int]


def bare(name: str) -> str:
    """The axis of a dimension, without its marks."""
    return name.strip("|*~")


@dataclass(frozen=True)
class Axis:
    name: str

    def size(self, sizes: Sizes) -> int:
        return sizes[bare(self.name)]


@dataclass(frozen=True)
class Product:
    parts: tuple[Axis | Product | Sum, ...]

    def size(self, sizes: Sizes) -> int:
        return math.prod(part.size(sizes) for part in self.parts)


@dataclass(frozen=True)
class Sum:
    parts: tuple[Axis | Product | Sum, ...]

    def size(self, sizes: Sizes) -> int:
        return sum(part.size(sizes) for part in self.parts)


Term = Axis | Product | Sum


@dataclass(frozen=True)
class Layout:
    """The dimensions of one tensor, each a term over named axes.

    >>> layout = parse("hidden (head v)")
    >>> layout.shape({"hidden": 6, "head": 2, "v": 4})
    (6, 8)
    """

    text: str
    dims: tuple[Term, ...]

    @property
    def axes(self) -> frozenset[str]:
        """Axes that the tensor carries, those that it only scales (`gains`) apart."""
        return frozenset(re.findall(r"(?<![\w|])\w+(?![\w|])", self.text))

    @property
    def linear(self) -> frozenset[str]:
        """Axes on which the tensor is a linear map or a vector: no gain, and no nonlinearity beside them."""
        return frozenset(re.findall(r"(?<![\w|])\w+(?![\w|~])", self.text))

    @property
    def nonlinear(self) -> frozenset[str]:
        """Axes beside a nonlinearity."""
        return frozenset(re.findall(r"(\w+)~", self.text))

    @property
    def stack(self) -> tuple[str, ...]:
        """The axes that count members of a stack, those in brackets; they are the first dimensions."""
        return tuple(re.findall(r"\[(\w+)\]", self.text))

    @property
    def stacked(self) -> int:
        """How many of the first dimensions count members of a stack."""
        return len(self.stack)

    @property
    def gains(self) -> frozenset[str]:
        """Axes that the tensor scales, channel by channel."""
        return frozenset(re.findall(r"\|(\w+)\|", self.text))

    def carries(self, axis: str) -> bool:
        """Whether something here moves or turns with the axis, or scales it."""
        return axis in self.axes or axis in self.gains

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        return tuple(dim.size(sizes) for dim in self.dims)

    def views(self, array: Array, sizes: Sizes) -> Iterator[tuple[tuple[str, ...], Array]]:
        """Yield `(axis names, view)` for every summand. Writing to a view writes to `array`.

        Raises:
            ValueError: the array does not have the layout's shape.
        """
        if array.shape != self.shape(sizes):
            raise ValueError(f"'{self.text}' is {self.shape(sizes)}, but the array is {array.shape}")
        yield from _open(array, (), self.dims, sizes)


def _open(
    view: Array, names: tuple[str, ...], terms: tuple[Term, ...], sizes: Sizes
) -> Iterator[tuple[tuple[str, ...], Array]]:
    """Dimensions of `view` are the `names` already opened, then the `terms` still closed."""
    if not terms:
        yield names, view
        return
    head, rest, at = terms[0], terms[1:], len(names)
    if isinstance(head, Axis):
        yield from _open(view, (*names, head.name), rest, sizes)
    elif isinstance(head, Product):
        split = tuple(part.size(sizes) for part in head.parts)
        opened = view.reshape(*view.shape[:at], *split, *view.shape[at + 1 :])
        yield from _open(opened, names, (*head.parts, *rest), sizes)
    else:
        start = 0
        for part in head.parts:
            stop = start + part.size(sizes)
            yield from _open(view[(slice(None),) * at + (slice(start, stop),)], names, (part, *rest), sizes)
            start = stop


@dataclass(frozen=True)
class Slot:
    """A stored tensor: where its values lie on axes, and where it stands itself on the axes of its name.

    Attributes:
        pattern: the name, with the axes that are in it in braces.
        sizes: the length of every axis here; it may be another one in another layer.
        layer: the decoder layer that it belongs to, None outside the layers.
        mtp: the number in the name of the MTP layer that it belongs to, None outside those.
        local: the pattern within its layer.
        position: index on every axis of the name.
    """

    pattern: str
    layout: Layout
    sizes: Sizes
    layer: int | None = None
    mtp: int | None = None
    local: str = ""
    position: Mapping[str, int] = field(default_factory=dict)

    @property
    def number(self) -> int | None:
        """The number of its layer, decoder or MTP layer; None outside."""
        return self.mtp if self.layer is None else self.layer

    @property
    def module(self) -> str:
        """What the module that holds it is called: `q_proj` of `self_attn.q_proj.bias`.

        >>> Slot("", parse("hidden"), {}, local="mlp.experts.{expert}.down_proj.weight").module
        'down_proj'
        >>> Slot("", parse("[expert] hidden"), {}, local="mlp.experts.down_proj_bias").module
        'down_proj'
        """
        parts = [part for part in self.local.split(".") if not part.startswith("{")]
        if len(parts) > 1 and parts[-1] in ("weight", "bias"):
            parts.pop()
        return parts[-1].removesuffix("_bias")

    @property
    def routed(self) -> bool:
        """Whether it belongs to a routed expert, or is a stack of what belongs to each of them."""
        return "expert" in self.position or "expert" in self.layout.stack

    def carries(self, axis: str) -> bool:
        return axis in self.position or self.layout.carries(axis)

    def shape(self) -> tuple[int, ...]:
        """The shape of the stored tensor."""
        return self.layout.shape(self.sizes)

    def name(self, position: Mapping[str, int] | None = None) -> str:
        """The stored name, here or at another position on the axes of the name."""
        at = self.position if position is None else position

        def number(match: re.Match[str]) -> str:
            found = 0
            for axis in match[1].split():
                found = found * self.sizes[axis] + at[axis]
            return str(found)

        return _BRACES.sub(number, self.pattern) if at else self.pattern

    def expand(self) -> Iterator[Slot]:
        """One slot for each position on the axes of the name."""
        axes = [axis for group in _BRACES.findall(self.pattern) for axis in group.split()]
        for index in product(*(range(self.sizes[axis]) for axis in axes)):
            yield replace(self, position=dict(zip(axes, index, strict=True)))


_BRACES = re.compile(r"\{([\w ]+)\}")


@cache
def parse(text: str) -> Layout:
    """Read a layout.

    Raises:
        ValueError: the text is not in the notation; the message shows it.
    """
    stack = re.match(r"(\[\w+\]\s*)*", text)
    rest = text[stack.end() :] if stack else text
    if re.sub(r"(?<!\w)\|\w+\|(?!\w)|\w+[*~](?![\w*~])|[\w\s()+]", "", rest):
        raise ValueError(
            f"layout '{text}': only [names] in front, names, |names|, names*, names~, spaces, parentheses "
            "and + are allowed"
        )
    tokens = re.findall(r"\|?\w+[|*~]?|[()+]", text)
    dims, end = _sequence(tokens, 0, text)
    if end != len(tokens):
        raise ValueError(f"layout '{text}': unexpected '{tokens[end]}'")
    return Layout(text, dims)


def _sequence(tokens: list[str], at: int, text: str) -> tuple[tuple[Term, ...], int]:
    terms: list[Term] = []
    while at < len(tokens) and tokens[at] not in ")+":
        if tokens[at] == "(":
            term, at = _group(tokens, at + 1, text)
            terms.append(term)
        else:
            terms.append(Axis(tokens[at]))
            at += 1
    return tuple(terms), at


def _group(tokens: list[str], at: int, text: str) -> tuple[Term, int]:
    summands: list[Term] = []
    while True:
        parts, at = _sequence(tokens, at, text)
        if not parts:
            raise ValueError(f"layout '{text}': an empty group or summand")
        summands.append(parts[0] if len(parts) == 1 else Product(parts))
        if at == len(tokens):
            raise ValueError(f"layout '{text}': a parenthesis is not closed")
        at += 1
        if tokens[at - 1] == ")":
            return (summands[0] if len(summands) == 1 else Sum(tuple(summands))), at
