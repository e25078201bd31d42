"""What a family is: a function of (config, layer) to a table of tensors and their axes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
        sizes: (config, layer) to the length of every named axis there; None for the layer is outside the
            layers. An axis of the whole model, as `hidden`, has one length everywhere.
        table: (config, layer) to `{name within the layer: layout}`; axes in a name stand in braces.
        outside: config to `{full name: layout}` for tensors outside the layers.
        mtp: config to the tables of its MTP layers, which predict tokens beyond the next (DeepSeek-V3). They
            are numbered on behind the layers. transformers ignores them, and a checkpoint may lack them.
        head: the module that gives the logits.
        embedding: the module with a vector a token, which a tied head shares.
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
    sizes: Callable[[Config, int | None], Mapping[str, int]]
    table: Callable[[Config, int], Table]
    outside: Callable[[Config], Table]
    mtp: Callable[[Config], Sequence[Table]] = lambda config: ()
    head: str = "lm_head"
    embedding: str = "model.embed_tokens"
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
        sizes: lengths of the axes of the whole model; a layer's own are `sizes_of(layer)`.
        layers: how many decoder layers there are.
    """

    family: Family
    config: Config
    bare: bool = False
    chosen: tuple[tuple[Table, Table], ...] = ()
    sizes: Mapping[str, int] = field(init=False)
    layers: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "config", self.family.read(self.config))
        object.__setattr__(self, "sizes", self._read_sizes(None))
        with self._reading():
            layers = self.config[self.family.depth]
        _check_sizes({"layers": layers})
        object.__setattr__(self, "layers", layers)

    def sizes_of(self, layer: int | None) -> Mapping[str, int]:
        """Lengths of the axes in a layer, or (None) of those of the whole model."""
        return self.sizes if layer is None else self._sizes_by_layer[layer]

    @cached_property
    def _sizes_by_layer(self) -> list[Mapping[str, int]]:
        return [self._read_sizes(layer) for layer in range(self.layers)]

    def _read_sizes(self, layer: int | None) -> Mapping[str, int]:
        with self._reading():
            found = dict(self.family.sizes(self.config, layer))
        _check_sizes(found)
        return found

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
        with self._reading():
            tables = [self.family.table(self.config, layer) for layer in range(self.layers)]
        return [self._expand(table, self.sizes_of(layer), layer) for layer, table in enumerate(tables)]

    @cached_property
    def _all(self) -> dict[str, Slot]:
        with self._reading():
            table, tables = self.family.outside(self.config), self.family.mtp(self.config)
        found = self._expand(table, self.sizes)
        for number, one in enumerate(tables, self.layers):
            found |= self._expand(one, self._read_sizes(number), mtp=number)
        return found | {name: slot for layer in self._by_layer for name, slot in layer.items()}

    def _expand(
        self, table: Table, sizes: Mapping[str, int], layer: int | None = None, mtp: int | None = None
    ) -> dict[str, Slot]:
        number = mtp if layer is None else layer
        prefix = "" if number is None else self.family.layer.replace("{layer}", str(number))
        found = {}
        for local, text in (table if layer is None else self._with_alternatives(table)).items():
            pattern = prefix + local
            if self.bare:
                pattern = pattern.removeprefix(self.family.base)
            for slot in Slot(pattern, parse(text), sizes, layer, mtp, local).expand():
                found[slot.name()] = slot
        return found

    def _with_alternatives(self, table: Table) -> Table:
        for usual, other in self.chosen:
            if usual.keys() <= table.keys():
                table = {name: text for name, text in table.items() if name not in usual} | dict(other)
        return table

    @property
    def head_and_embedding(self) -> tuple[str, str]:
        """Weights of the output head, stored or not, and of the embedding that it may be tied to."""
        embedding = f"{self.family.embedding}.weight"
        return (
            f"{self.family.head}.weight",
            embedding.removeprefix(self.family.base) if self.bare else embedding,
        )

    def is_head(self, name: str) -> bool:
        """Whether a tensor belongs to the output head: its weight, or its bias."""
        return name in self.slots() and _module(name) == self.family.head

    def takes_part(self, name: str) -> bool:
        """Whether the logits depend on a tensor: not on buffers, and not on MTP layers."""
        slot = self.slots().get(name)
        return slot is not None and slot.mtp is None and not self.is_buffer(name)

    def is_buffer(self, name: str) -> bool:
        """Whether a tensor holds constants of the architecture, not weights."""
        slot = self.slots().get(name)
        if slot is None:
            return _FREQUENCIES.search(name) is not None
        return slot.local in self.family.buffers

    def role(self, name: str) -> Role:
        """What a tensor is, by the axes in the family's table.

        Embeddings and heads, those of MTP layers too, have a row a token or a position; the weight of a norm
        scales an axis, and its bias stands in the same module.
        """
        if self.is_buffer(name):
            return "buffer"
        layout = self.slots()[name].layout
        if layout.axes & {"vocab", "position"}:
            return "embedding"
        if _module(name) in self._norms:
            return "norm"
        return "matrix" if len(layout.dims) - layout.stacked == 2 else "bias"

    @cached_property
    def _norms(self) -> frozenset[str]:
        """Modules that hold a weight which scales an axis."""
        return frozenset(_module(name) for name, slot in self.slots().items() if slot.layout.gains)

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Compare the table with what a checkpoint holds.

        Raises:
            UnknownFamilyError: a tensor is missing, is not in the table, or has another shape.
        """
        slots, optional = self.slots(), self.family.optional(self.config) | self.family.buffers
        quantised = self.quantised(shapes)
        for name, slot in slots.items():
            if name not in shapes:
                if slot.mtp is None and slot.local not in optional and name not in quantised:
                    raise UnknownFamilyError(
                        f"{self.family.name}: '{name}' is in the family's table but not in the checkpoint"
                    )
            elif shapes[name] != (want := slot.shape()):
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


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _check_sizes(sizes: Mapping[str, object]) -> None:
    if bad := {name: size for name, size in sizes.items() if not isinstance(size, int) or size < 1}:
        raise UnknownFamilyError(f"config.json gives no usable size for the axes {bad}")
