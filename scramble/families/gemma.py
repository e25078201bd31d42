"""Gemma 1 and 2: Llama's layout with a head_dim of their own; Gemma 2 adds norms after each block."""

from functools import partial

from scramble.families import decoder
from scramble.families.family import Config, Family, Table

_FEEDFORWARD_NORMS: Table = {
    "pre_feedforward_layernorm.weight": "hidden",
    "post_feedforward_layernorm.weight": "hidden",
}


def _table(config: Config, layer: int) -> Table:
    table = {**decoder.ATTENTION, **decoder.GATED_MLP, **decoder.PRE_NORMS, **decoder.ROTARY_BUFFER}
    if config.get("attention_bias"):
        table |= {**decoder.QKV_BIAS, **decoder.O_BIAS}
    return table


def _table2(config: Config, layer: int) -> Table:
    return {**_table(config, layer), **_FEEDFORWARD_NORMS}


GEMMA = Family(
    name="gemma",
    sizes=partial(decoder.sizes, kv_heads=16, head_dim=256),
    table=_table,
    outside=decoder.outside,
    optional=partial(decoder.optional, tied=True),
    constraints=decoder.rope,
)
GEMMA2 = Family(
    name="gemma2",
    sizes=partial(decoder.sizes, kv_heads=4, head_dim=256),
    table=_table2,
    outside=decoder.outside,
    optional=partial(decoder.optional, tied=True),
    constraints=decoder.rope,
)
