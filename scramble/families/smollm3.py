"""SmolLM 3: Llama's layout, with layers that have no rotary positions."""

from functools import partial

from scramble.families import decoder
from scramble.families.family import Config, Constraint, Family
from scramble.families.llama import LLAMA


def _constraints(config: Config, layer: int) -> tuple[Constraint, ...]:
    """`no_rope_layers[i] = 1` means that positions are *on* in layer i; by default every fourth has none."""
    every = config.get("no_rope_layer_interval", 4)
    flags = config.get("no_rope_layers")
    rotary = flags[layer] if flags else (layer + 1) % every != 0
    return decoder.rope(config, layer) if rotary else ()


SMOLLM3 = Family(
    name="smollm3",
    sizes=partial(decoder.sizes, kv_heads=4),
    table=LLAMA.table,
    outside=decoder.outside,
    optional=partial(decoder.optional, tied=True),
    buffers=decoder.BUFFERS,
    constraints=_constraints,
    folds=decoder.FOLDS,
)
