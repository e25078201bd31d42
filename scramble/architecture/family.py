"""What a family is: a function of (config, layer) to a table of tensors and their axes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from scramble.architecture.axes import Slot, parse
from scramble.errors import UnknownFamilyError

Config = Mapping[str, Any]
Table = Mapping[str, str]


Role = Literal["embedding", "norm", "matrix", "bias", "buffer"]
"""What a tensor is: an embedding or output head; a norm's weight or bias; a linear map, or a stack of them;
any other vector; or constants that are no weights."""

Kind = Literal["gain", "rope", "gate", "clamp", "alibi", "layer_norm", "post_norm", "routing"]


@dataclass(frozen=True)
class Constraint:
    """Something that sits on an axis and is not linear, or cannot move: it narrows or forbids a group.

    Attributes:
        note: names the place.
        layout: of rotary positions: `half` pairs channel i with i + n/2, `interleaved` with its neighbour.
        channels: how many channels of the axis are rotary, from the first; all of them if None.
        groups: into how many equal, consecutive groups routing divides the axis.
    """

    kind: Kind
    axis: str
    note: str
    layout: Literal["half", "interleaved"] | None = None
    channels: int | None = None
    groups: int = 1


@dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
        name: the config's `model_type`.
        sizes: config to the length of every named axis.
        table: (config, layer) to `{name within the layer: layout}`; axes in a name stand in braces.
        outside: config to `{full name: layout}` for tensors outside the layers.
        optional: config to the names, of either table, that a checkpoint may lack.
        buffers: names within a layer that hold no weights: a checkpoint may lack them, nothing moves them.
        alternatives: entries of a layer's table, and those that a checkpoint may hold in their place.
        constraints: (config, layer) to what sits on the axes there.
        defaults: every key that the tables read and `config.json` may leave out, with what transformers'
            config class takes then. A null is no default: it is read as transformers reads it.
        aliases: other names of a key, which overrule it, as transformers' config class knows them.
        folds: config to `{norm: names of the linear maps that read it}`, in the layers and outside;
            what `scramble.fold` needs. Norms of gain `1 + weight` are named in `offset`.
        layer: the prefix of a layer's tensors.
        base: the prefix of the model without its head, which checkpoints may leave out everywhere.
        depth: the config's key for the number of layers.
        first_position: the row of position zero in a table of learned positions.
    """

    name: str
    sizes: Callable[[Config], Mapping[str, int]]
    table: Callable[[Config, int], Table]
    outside: Callable[[Config], Table]
    optional: Callable[[Config], frozenset[str]] = lambda config: frozenset()
    buffers: frozenset[str] = frozenset()
    alternatives: tuple[tuple[Table, Table], ...] = ()
    constraints: Callable[[Config, int], tuple[Constraint, ...]] = lambda config, layer: ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    folds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    offset: bool = False
    layer: str = "model.layers.{layer}."
    base: str = "model."
    depth: str = "num_hidden_layers"
    first_position: int = 0

    def read(self, config: Config) -> Config:
        """A `config.json` with the family's defaults, under one name a key: what the tables are given."""
        other = {name: config[alias] for alias, name in self.aliases.items() if config.get(alias) is not None}
        return {**self.defaults, **config, **other}

    def is_tied(self, config: Config) -> bool:
        """Whether a `config.json` makes the output head the embedding."""
        return bool(self.read(config)["tie_word_embeddings"])


# What stands behind a weight's name where it is stored in a quantised format, in parts or beside scales.
_QUANTISED = ("_scale_inv", "_blocks", "_scales", "_scale")
# Rotary frequencies, which the config gives: transformers leaves stored ones unread, wherever they stand.
_FREQUENCIES = re.compile(r"(^|\.)rotary_emb\w*\.\w*inv_freq$")


@dataclass(frozen=True)
class Architecture:
    """A family with one model's config: sizes are numbers, layers are counted, tables are read.

    Attributes:
        config: as the family reads `config.json`.
        bare: the checkpoint leaves the family's `base` prefix out.
        chosen: those of the family's alternatives that the checkpoint has.
    """

    family: Family
    config: Config
    bare: bool = False
    chosen: tuple[tuple[Table, Table], ...] = ()
    sizes: Mapping[str, int] = field(init=False)
    layers: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "config", self.family.read(self.config))
        with self._reading():
            sizes = dict(self.family.sizes(self.config))
            layers = self.config[self.family.depth]
        if bad := {
            name: size
            for name, size in [*sizes.items(), ("layers", layers)]
            if not isinstance(size, int) or size < 1
        }:
            raise UnknownFamilyError(f"config.json gives no usable size for the axes {bad}")
        object.__setattr__(self, "sizes", sizes)
        object.__setattr__(self, "layers", layers)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Turn what a table stumbles over in a config into a refusal.

        Raises:
            UnknownFamilyError: a key is missing, or its value is of another type or out of range.
        """
        try:
            yield
        except KeyError as key:
            raise UnknownFamilyError(f"{self.family.name}: config.json has no {key}") from None
        except (AttributeError, ArithmeticError, IndexError, TypeError, ValueError) as error:
            raise UnknownFamilyError(
                f"{self.family.name}: config.json holds a value that cannot be read ({error})"
            ) from None

    def constraints(self, layer: int | None) -> tuple[Constraint, ...]:
        """What sits on the axes of a layer, or of the whole model."""
        if layer is not None:
            with self._reading():
                return self.family.constraints(self.config, layer)
        every = [one for number in range(self.layers) for one in self.constraints(number)]
        return tuple(dict.fromkeys(every))

    def slots(self, layer: int | None = None) -> dict[str, Slot]:
        """Tensor name to slot, for one layer or the whole model."""
        return self._all if layer is None else self._by_layer[layer]

    @cached_property
    def _by_layer(self) -> list[dict[str, Slot]]:
        prefixes = [self.family.layer.replace("{layer}", str(layer)) for layer in range(self.layers)]
        with self._reading():
            tables = [self._table(layer) for layer in range(self.layers)]
        return [
            self._expand(prefix, table, layer)
            for layer, (prefix, table) in enumerate(zip(prefixes, tables, strict=True))
        ]

    def _table(self, layer: int) -> Table:
        table = dict(self.family.table(self.config, layer))
        for usual, other in self.chosen:
            if usual.keys() <= table.keys():
                table = {name: text for name, text in table.items() if name not in usual} | dict(other)
        return table

    @cached_property
    def _all(self) -> dict[str, Slot]:
        with self._reading():
            table = self.family.outside(self.config)
        outside = self._expand("", table, None)
        return outside | {name: slot for layer in self._by_layer for name, slot in layer.items()}

    def _expand(self, prefix: str, table: Table, layer: int | None) -> dict[str, Slot]:
        found = {}
        for local, text in table.items():
            pattern = prefix + local
            if self.bare:
                pattern = pattern.removeprefix(self.family.base)
            for slot in Slot(pattern, parse(text), layer, local).expand(self.sizes):
                found[slot.name(self.sizes)] = slot
        return found

    def is_buffer(self, name: str) -> bool:
        """Whether a tensor holds constants of the architecture, not weights."""
        slot = self.slots().get(name)
        if slot is None:
            return _FREQUENCIES.search(name) is not None
        return slot.local in self.family.buffers

    def role(self, name: str) -> Role:
        """What a tensor is, by the axes in the family's table."""
        if self.is_buffer(name):
            return "buffer"
        layout = self.slots()[name].layout
        if layout.axes & {"vocab", "position"}:
            return "embedding"
        weight = self.slots().get(re.sub(r"(^|\.)bias$", r"\1weight", name))
        if weight is not None and weight.layout.gains:
            return "norm"
        return "matrix" if len(layout.dims) - layout.stacked == 2 else "bias"

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Compare the table with what a checkpoint holds.

        Raises:
            UnknownFamilyError: a tensor is missing, is not in the table, or has another shape.
        """
        slots, optional = self.slots(), self.family.optional(self.config) | self.family.buffers
        quantised = self.quantised(shapes)
        for name, slot in slots.items():
            if name not in shapes:
                if slot.local not in optional and name not in quantised:
                    raise UnknownFamilyError(
                        f"{self.family.name}: '{name}' is in the family's table but not in the checkpoint"
                    )
            elif shapes[name] != (want := slot.layout.shape(self.sizes)):
                raise UnknownFamilyError(
                    f"{self.family.name}: '{name}' has shape {shapes[name]}; "
                    f"the config and '{slot.layout.text}' make it {want}"
                )
        parts = {part for found in quantised.values() for part in found}
        unread = {name for name in shapes if _FREQUENCIES.search(name)}
        if unknown := sorted(shapes.keys() - slots.keys() - parts - unread):
            raise UnknownFamilyError(
                f"{self.family.name}: the checkpoint holds {len(unknown)} tensor(s) that the family's table "
                f"does not know, the first is '{unknown[0]}'"
            )

    def quantised(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Weights stored in a quantised format: name in the table to the tensors that belong to it."""
        slots, found = self.slots(), dict[str, list[str]]()
        for name in names:
            for suffix in _QUANTISED:
                if name.endswith(suffix) and (stem := name.removesuffix(suffix)) in slots:
                    found.setdefault(stem, []).append(name)
        return found
