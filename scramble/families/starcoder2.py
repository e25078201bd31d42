"""StarCoder 2: LayerNorm and a plain MLP, with biases everywhere."""

from functools import partial

from scramble.families import decoder
from scramble.families.family import Config, Constraint, Family, Table

_NORM_BIAS: Table = {"input_layernorm.bias": "hidden", "post_attention_layernorm.bias": "hidden"}


def _table(config: Config, layer: int) -> Table:
    table = {**decoder.ATTENTION, **decoder.PLAIN_MLP, **decoder.PRE_NORMS, **_NORM_BIAS}
    if config.get("use_bias", True):
        table |= {**decoder.QKV_BIAS, **decoder.O_BIAS, **decoder.PLAIN_MLP_BIAS}
    return table


def _outside(config: Config) -> Table:
    return {**decoder.OUTSIDE, "model.norm.bias": "hidden"}


def _constraints(config: Config, layer: int) -> tuple[Constraint, ...]:
    return (*decoder.rope(config, layer), *decoder.LAYER_NORM)


STARCODER2 = Family(
    name="starcoder2",
    sizes=partial(decoder.sizes, kv_heads=2),
    table=_table,
    outside=_outside,
    optional=partial(decoder.optional, tied=True),
    constraints=_constraints,
)
