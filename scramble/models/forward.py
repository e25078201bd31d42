"""Forward passes of many variants of one checkpoint at once, one decoder layer in memory at a time.

A *variant* is a model that differs from the checkpoint in some tensors. All variants see the same tokens and
go through the layers together: the batch holds the sequences of the first, then those of the second, and so
on. Every module that holds weights is a *station*. Where a station's weights differ between variants, it is
called once for each with that variant's weights; where they do not, once for all. Weights are loaded when a
station is reached and dropped when it is left, so memory follows the largest layer, not the model.

transformers builds the modules and converts stored tensors to its parameters (experts are merged there), so
what is computed is what users compute, except that float32 inside a float64 model (norms, softmax, routers)
is raised to float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scramble.architecture.axes import Array
from scramble.checkpoints import Checkpoint
from scramble.errors import ScrambleError, UndecidedError, one_line
from scramble.internals.torch import tree_map
from scramble.models.arithmetic import RESOLUTION, Float64, relative
from scramble.models.modules import empty_model, give_back, placement
from scramble.models.routing import Routing

if TYPE_CHECKING:
    from jaxtyping import Float, Int64


@dataclass(frozen=True)
class Variant:
    """A model that differs from the base in some tensors.

    Attributes:
        values: name to its float64 values, called when they are needed.
        frame: maps its hidden states to the base's frame, where the residual stream itself was changed.
    """

    values: Mapping[str, Callable[[], Array]] = field(default_factory=dict)
    frame: Callable[[Array], Array] = lambda states: states


class Forward:
    """Variants of a base on given tokens.

    Args:
        checkpoint: names, shapes and config of the model.
        values: float64 values of the base's tensors.
        positions: of the tokens, for families that learn a vector for each; from zero if None.
        alone: tensors that are tried one by one: name to the values that differ, and to noise in their place.

    Attributes:
        seen: those of `alone` that, alone in the base, change what leaves their module, and more than noise.
        routing: which experts the variants reach, by layer and place (the base is 0).
        arithmetic: `float64`, or `float32` where a layer does not fit in memory in float64.
        layer_errors: after `logits`, for each layer and variant, `||h - h_base|| / ||h_base||` of the hidden
            states that leave the layer.

    Raises:
        UndecidedError: a layer does not fit in memory, or transformers cannot build the model.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        values: Callable[[str], Array],
        variants: Sequence[Variant],
        tokens: Int64[np.ndarray, "batch time"],
        positions: Int64[np.ndarray, "batch time"] | None = None,
        alone: Mapping[str, Sequence[Callable[[], Array]]] | None = None,
    ) -> None:
        self.checkpoint, self.values, self.alone = checkpoint, values, alone or {}
        self.variants = [Variant(), *variants]
        self.device, self.dtype = placement(checkpoint)
        self.arithmetic = str(self.dtype).removeprefix("torch.")
        self.tokens = torch.from_numpy(tokens).to(self.device)
        self.positions = None if positions is None else torch.from_numpy(positions).to(self.device)
        self.seen: set[str] = set()
        self.routing = Routing()
        self.layer_errors: list[list[float]] = []
        self._model = empty_model(checkpoint, self.dtype)
        self._together = True  # no station so far had weights that differ
        self._replayed: Variant | None = None
        self._embedded: dict[torch.nn.Module, Any] = {}
        self._left: tuple[Any, ...] = ()  # what left the last layer, one a variant
        self._place_stations()

    def logits(self) -> Iterator[Float[np.ndarray, "batch time vocab"]]:
        """One array a variant, the base first."""
        self._call(len(self.variants))
        last = self._left
        for place, variant in enumerate(self.variants):
            self._replayed, self._left = variant, (last[place],)
            yield self._call(1).double().cpu().numpy()

    def _call(self, count: int) -> torch.Tensor:
        given = {} if self.positions is None else {"position_ids": self.positions.repeat(count, 1)}
        raised = Float64() if self.dtype == torch.float64 else nullcontext()
        try:
            with torch.inference_mode(), raised:
                logits: torch.Tensor = self._model(
                    self.tokens.repeat(count, 1), use_cache=False, **given
                ).logits
        except ScrambleError:
            raise
        except Exception as error:  # whatever transformers' model can raise: no verdict is possible
            raise UndecidedError(
                f"{self.checkpoint.folder}: transformers cannot run this model: {one_line(error)}"
            ) from error
        return logits

    def _place_stations(self) -> None:
        architecture = self.checkpoint.architecture
        inside, outside = dict[int, list[str]](), list[str]()
        for name in self.checkpoint.tensors:
            slot = architecture.slots().get(name)
            if slot is None or not architecture.takes_part(name):
                if any(name in variant.values for variant in self.variants):
                    raise UndecidedError(f"'{name}' takes no part in the logits, so no check would see it")
                continue
            inside.setdefault(slot.layer, []).append(name) if slot.layer is not None else outside.append(name)
        layers = {
            self._model.get_submodule(
                architecture.family.layer.replace("{layer}", str(layer)).rstrip(".")
            ): layer
            for layer in range(architecture.layers)
        }
        within = {part for layer in layers for part in layer.modules()}
        heads = [name for name in outside if architecture.is_head(name)]
        words = [
            name for name in outside if architecture.slots()[name].carries("vocab") and name not in heads
        ]
        small = [name for name in outside if name not in heads and name not in words]
        for module, layer in layers.items():
            self.routing.watch(layer, module)
            self._wrap(module, self._layer, inside[layer])
        for module in self._model.modules():
            if module in within or not list(module.parameters(recurse=False)):
                continue
            if module is self._model.get_output_embeddings():
                # A head that is tied may have a bias of its own (Phi).
                tied = architecture.head_and_embedding[0] not in heads
                self._wrap(module, self._head, heads + words if tied else heads)
            elif isinstance(module, torch.nn.Embedding):
                self._wrap(module, self._embedding, words + small)
            else:
                self._wrap(module, self._station, small)

    def _wrap(self, module: torch.nn.Module, kind: Callable[..., Any], names: list[str]) -> None:
        module.forward = partial(kind, module, module.forward, names)

    def _station(
        self,
        module: torch.nn.Module,
        forward: Callable[..., Any],
        names: list[str],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Call a module, once for each variant where their weights differ."""
        base = {name: self._tensor(self.values(name)) for name in names}

        def call(variant: Variant, inputs: Any, place: int | None = None) -> Any:
            own = {name: self._tensor(get()) for name, get in variant.values.items() if name in base}
            self._load(module, base | own)
            positional, named = inputs
            self.routing.variant = place
            left = forward(*positional, **named)
            self.routing.variant = None
            if place == 0:
                self._try_alone(module, forward, base, inputs, left)
            return left

        try:
            if self._replayed is not None:
                place = 0 if self._replayed is self.variants[0] else None
                return call(self._replayed, (args, kwargs), place)
            differ = any(variant.values.keys() & base.keys() for variant in self.variants)
            if not differ and not self._together:
                return call(self.variants[0], (args, kwargs))
            count = len(self.variants) if differ else 1
            parts = [
                call(self.variants[place], self._split((args, kwargs), place), place)
                for place in range(count)
            ]
            self._together = self._together and not differ
            return self._join(parts if differ else parts * len(self.variants))
        finally:
            self._drop(module)

    def _try_alone(
        self,
        module: torch.nn.Module,
        forward: Callable[..., Any],
        base: Mapping[str, torch.Tensor],
        inputs: Any,
        left: Any,
    ) -> None:
        """See which tensors of a module that holds the base's weights change what leaves it, each alone."""
        for name in [name for name in base if name in self.alone and name not in self.seen]:
            # One sequence shows almost every difference; what it does not show may take them all.
            for count in dict.fromkeys((1, len(self.tokens))):
                positional, named = self._first(inputs, count)
                reference, effects = _states(self._first(left, count)), []
                for get in self.alone[name]:
                    self._load(module, {name: self._tensor(get())})
                    gap = _states(forward(*positional, **named)) - reference
                    effects.append(float(gap.norm() / reference.norm()))
                if effects[0] > max(RESOLUTION[self.arithmetic], *effects[1:]):
                    self.seen.add(name)
                    break
            self._load(module, {name: base[name]})

    def _layer(
        self,
        module: torch.nn.Module,
        forward: Callable[..., Any],
        names: list[str],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if self._replayed is not None:
            return self._left[0]
        left = self._station(module, forward, names, *args, **kwargs)
        self._left = tuple(self._split(left, place) for place in range(len(self.variants)))
        states = [_states(part).double().cpu().numpy() for part in self._left]
        self.layer_errors.append(
            [
                relative(variant.frame(one), states[0])
                for variant, one in zip(self.variants, states, strict=True)
            ]
        )
        return left

    def _embedding(
        self,
        module: torch.nn.Module,
        forward: Callable[..., Any],
        names: list[str],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if self._replayed is None:
            found = self._station(module, forward, names, *args, **kwargs)
            self._embedded[module] = self._split(found, 0)
            return found
        return self._embedded[module]  # the layers do not look at it

    def _head(
        self, module: torch.nn.Module, forward: Callable[..., Any], names: list[str], states: torch.Tensor
    ) -> Any:
        if self._replayed is None:
            return states.new_zeros((*states.shape[:-1], 1))
        return self._station(module, forward, names, states)

    def _load(self, module: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
        """Put stored tensors into a module's parameters, converted as transformers converts them."""
        from scramble.internals.transformers import convert

        if unknown := convert(self._model, weights, self.device, self.dtype):
            raise UndecidedError(f"'{unknown[0]}' is no parameter of the transformers model")
        embedding = self._model.get_input_embeddings()
        if module is self._model.get_output_embeddings() and not embedding.weight.is_meta:
            module.weight = embedding.weight
        if missing := [name for name, one in module.named_parameters() if one.is_meta]:
            raise UndecidedError(
                f"{self.checkpoint.folder}: transformers needs '{missing[0]}', which is not there"
            )

    def _drop(self, module: torch.nn.Module) -> None:
        for part in {module, self._model.get_input_embeddings()}:
            for owner in part.modules():
                for name, one in owner.named_parameters(recurse=False):
                    empty = torch.empty_like(one, device="meta")
                    setattr(owner, name, torch.nn.Parameter(empty, requires_grad=False))
        give_back()

    def _tensor(self, values: Array) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.dtype)

    def _split(self, tree: Any, place: int) -> Any:
        """The part of one variant of everything whose first dimension is the batch (or batch times heads)."""
        batch, count = len(self.tokens), len(self.variants)

        def part(leaf: Any) -> Any:
            if not isinstance(leaf, torch.Tensor) or not leaf.ndim or leaf.shape[0] % (batch * count):
                return leaf
            return leaf.tensor_split(count)[place]

        return tree_map(part, tree)

    def _first(self, tree: Any, count: int) -> Any:
        """The first sequences of everything that belongs to one variant."""
        batch = len(self.tokens)

        def part(leaf: Any) -> Any:
            if not isinstance(leaf, torch.Tensor) or leaf.ndim < 2 or leaf.shape[0] % batch:
                return leaf
            return leaf[: leaf.shape[0] // batch * count]

        return tree_map(part, tree)

    def _join(self, parts: list[Any]) -> Any:
        batch = len(self.tokens)

        def whole(*leaves: Any) -> Any:
            if not isinstance(leaves[0], torch.Tensor):
                return leaves[0]
            return torch.cat(
                [leaf.expand(batch, *leaf.shape[1:]) if len(leaf) == 1 else leaf for leaf in leaves]
            )

        return tree_map(whole, *parts)


def _states(left: Any) -> torch.Tensor:
    """The hidden states in what a layer returns: a tensor, or the first of a tuple."""
    found: torch.Tensor = left[0] if isinstance(left, tuple) else left
    return found
