"""What a family is: a function of (config, layer) to a table of tensors and their axes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from scramble.axes import Layout, parse
from scramble.errors import UnknownFamilyError

Config = Mapping[str, Any]
Table = Mapping[str, str]


Kind = Literal["gain", "rope", "gate", "clamp", "alibi", "layer_norm"]


@dataclass(frozen=True)
class Constraint:
    """Something that sits on an axis and is not linear, or cannot move: it narrows or forbids a group.

    Attributes:
        note: names the place.
        layout: of rotary positions: `half` pairs channel i with i + n/2, `interleaved` with its neighbour.
        channels: how many channels of the axis are rotary, from the first; all of them if None.
    """

    kind: Kind
    axis: str
    note: str
    layout: Literal["half", "interleaved"] | None = None
    channels: int | None = None


@dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
        name: the config's `model_type`.
        sizes: config to the length of every named axis.
        table: (config, layer) to `{name within the layer: layout}`.
        outside: config to `{full name: layout}` for tensors outside the layers.
        optional: config to the names, of either table, that a checkpoint may lack.
        constraints: (config, layer) to what sits on the axes there.
        layer: the prefix of a layer's tensors.
    """

    name: str
    sizes: Callable[[Config], Mapping[str, int]]
    table: Callable[[Config, int], Table]
    outside: Callable[[Config], Table]
    optional: Callable[[Config], frozenset[str]] = lambda config: frozenset()
    constraints: Callable[[Config, int], tuple[Constraint, ...]] = lambda config, layer: ()
    layer: str = "model.layers.{layer}."


@dataclass(frozen=True)
class Architecture:
    """A family with one model's config: sizes are numbers, layers are counted, tables are read."""

    family: Family
    config: Config
    sizes: Mapping[str, int] = field(init=False)
    layers: int = field(init=False)

    def __post_init__(self) -> None:
        try:
            sizes = dict(self.family.sizes(self.config))
            layers = self.config["num_hidden_layers"]
        except KeyError as key:
            raise UnknownFamilyError(f"{self.family.name}: config.json has no {key}") from None
        except TypeError:
            raise UnknownFamilyError(f"{self.family.name}: a size in config.json is not a number") from None
        if bad := {
            name: size
            for name, size in [*sizes.items(), ("layers", layers)]
            if not isinstance(size, int) or size < 1
        }:
            raise UnknownFamilyError(f"config.json gives no usable size for the axes {bad}")
        object.__setattr__(self, "sizes", sizes)
        object.__setattr__(self, "layers", layers)

    def constraints(self, layer: int) -> tuple[Constraint, ...]:
        return self.family.constraints(self.config, layer)

    def layer_layouts(self, layer: int) -> dict[str, Layout]:
        """Full tensor name to layout, for one layer."""
        prefix = self.family.layer.format(layer=layer)
        return {prefix + name: parse(text) for name, text in self.family.table(self.config, layer).items()}

    def layouts(self) -> dict[str, Layout]:
        """Full tensor name to layout, for the whole model."""
        found = {name: parse(text) for name, text in self.family.outside(self.config).items()}
        for layer in range(self.layers):
            found |= self.layer_layouts(layer)
        return found

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Compare the table with what a checkpoint holds.

        Raises:
            UnknownFamilyError: a tensor is missing, is not in the table, or has another shape.
        """
        layouts, optional = self.layouts(), self.family.optional(self.config)
        for name, layout in layouts.items():
            if name not in shapes:
                if not name.endswith(tuple(optional)):
                    raise UnknownFamilyError(
                        f"{self.family.name}: '{name}' is in the family's table but not in the checkpoint"
                    )
            elif shapes[name] != (want := layout.shape(self.sizes)):
                raise UnknownFamilyError(
                    f"{self.family.name}: '{name}' has shape {shapes[name]}; "
                    f"the config and '{layout.text}' make it {want}"
                )
        if unknown := sorted(shapes.keys() - layouts.keys()):
            raise UnknownFamilyError(
                f"{self.family.name}: the checkpoint holds {len(unknown)} tensor(s) that the family's table "
                f"does not know, the first is '{unknown[0]}'"
            )

    def carriers(self, layer: int, axis: str) -> Iterator[tuple[str, Layout]]:
        """The tensors of a layer that carry an axis."""
        for name, layout in self.layer_layouts(layer).items():
            if axis in layout.axes:
                yield name, layout
