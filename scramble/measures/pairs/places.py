"""Where a tensor stands in a model: its tower, where there are several, its layer, and its module.

A family's table says layer and module of its tensors, and such a model has no towers. Where no table
describes a checkpoint there is nothing but the names: the regular expressions here are for those alone.

A multimodal model has a text model and a tower for each other kind of input, an encoder-decoder has two
stacks: all count their layers from 0. A *stack* is what stands before the first number of a name, where
modules follow (`visual.blocks` of `visual.blocks.0.mlp.fc1.weight`). Where a checkpoint has one stack there
are no towers. Where it has several, a tower is called by what tells its stack from the others.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from scramble.architecture.axes import Slot

_LAYER = re.compile(r"(?P<stack>[^.]*[^.\d][^.]*(?:\.[^.]*[^.\d][^.]*)*)\.(?P<layer>\d+)\.(?P<rest>.+)")
Path = tuple[str, ...]


class Places:
    """Tower, layer, module and name of the tensors of one model.

    Args:
        names: of all its tensors.
        slots: those of its family's table; none where no table describes it.
    """

    def __init__(self, names: Iterable[str], slots: Mapping[str, Slot] | None = None) -> None:
        self._slots = slots or {}
        found = (_LAYER.match(name) for name in names)
        self._stacks = Counter(tuple(one["stack"].split(".")) for one in found if one and "." in one["rest"])

    def __call__(self, tensor: str) -> dict[str, object]:
        """`layer` (None outside the layers), `module` and `tensor`, in front of them `tower` where there are
        several.

        Args:
            tensor: a name, or that of a member of a stack, as `NAME[3]`.

        >>> names = ["model.language_model.layers.0.mlp.fc.weight", "model.visual.blocks.0.mlp.fc1.weight"]
        >>> Places(names)(names[1])
        {'tower': 'visual', 'layer': 0, 'module': 'fc1', 'tensor': 'model.visual.blocks.0.mlp.fc1.weight'}
        """
        whole = re.sub(r"\[\d+\]$", "", tensor)
        if (slot := self._slots.get(whole)) is not None:
            return {"layer": slot.number, "module": slot.module, "tensor": tensor}
        return self._by_name(tensor, whole)

    def _by_name(self, tensor: str, whole: str) -> dict[str, object]:
        number = re.search(r"\.(\d+)\.", tensor)
        layer = int(number.group(1)) if number else None
        found: dict[str, object] = {"layer": layer, "module": _module(whole), "tensor": tensor}
        match = _LAYER.match(tensor)
        stack = tuple(match["stack"].split(".")) if match else ()
        if self._stacks and stack not in self._stacks:
            found["layer"] = None
        if len(self._stacks) < 2:
            return found
        tower = self._towers[stack] if stack in self._stacks else self._outside(tuple(tensor.split(".")))
        return {"tower": tower, **found}

    @cached_property
    def _common(self) -> int:
        """How many parts all stacks begin with."""
        one, other = min(self._stacks), max(self._stacks)
        same = [a == b for a, b in zip(one, other, strict=False)]
        return [*same, False].index(False)

    @cached_property
    def _towers(self) -> dict[Path, str | None]:
        named: dict[Path, str | None] = {}
        for stack in self._stacks:
            root = self._root(stack)
            beside = [
                other for other in self._stacks if other[:-1] == stack[:-1] and self._root(other) == other
            ]
            # The largest of the stacks that one module holds is that module's tower.
            if root == stack and max(beside, key=lambda other: self._stacks[other]) == stack:
                root = stack[:-1]
            named[stack] = ".".join(root[self._common :]) or None
        if len(set(named.values())) < len(named):
            return {stack: ".".join(stack) for stack in self._stacks}
        return named

    def _root(self, stack: Path) -> Path:
        """The shortest beginning that no other stack has."""
        others = [other for other in self._stacks if other != stack]
        lengths = range(1, len(stack) + 1)
        free = (at for at in lengths if not any(other[:at] == stack[:at] for other in others))
        return stack[: next(free, len(stack))]

    def _outside(self, parts: Path) -> str | None:
        """The tower that a tensor outside the layers belongs to, or the module beside the towers."""
        roots: dict[Any, str | None] = {self._root(stack): tower for stack, tower in self._towers.items()}
        for at in range(len(parts), self._common, -1):
            if parts[:at] in roots:
                return roots[parts[:at]]
            if any(stack[:at] == parts[:at] for stack in self._stacks):
                return ".".join(parts[self._common : at])
        rest = (
            parts[self._common :]
            if parts[: self._common] == next(iter(self._stacks))[: self._common]
            else parts
        )
        return rest[0] if len(rest) > 2 else None


def _module(name: str) -> str:
    parts = [part for part in name.split(".") if not part.isdigit()] or [name]
    if len(parts) > 1 and parts[-1] in ("weight", "bias"):
        parts.pop()
    return parts[-1].removesuffix("_bias")
