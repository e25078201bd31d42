"""StarCoder 2: LayerNorm and a plain MLP, with biases everywhere."""

from scramble.architecture.family import Config, Constraint, Family, Table
from scramble.families.blocks import decoder

_NORM_BIAS: Table = {"input_layernorm.bias": "hidden", "post_attention_layernorm.bias": "hidden"}


def _table(config: Config, layer: int) -> Table:
    table = {**decoder.ATTENTION, **decoder.PLAIN_MLP, **decoder.PRE_NORMS, **_NORM_BIAS}
    if config["use_bias"]:
        table |= {**decoder.QKV_BIAS, **decoder.O_BIAS, **decoder.PLAIN_MLP_BIAS}
    return table


def _outside(config: Config) -> Table:
    return {**decoder.OUTSIDE, "model.norm.bias": "hidden"}


def _constraints(config: Config, layer: int) -> tuple[Constraint, ...]:
    return (*decoder.rope(config, layer), *decoder.LAYER_NORM)


STARCODER2 = Family(
    name="starcoder2",
    sizes=decoder.sizes,
    table=_table,
    outside=_outside,
    optional=decoder.optional,
    constraints=_constraints,
    defaults={**decoder.DEFAULTS, "tie_word_embeddings": True, "num_key_value_heads": 2, "use_bias": True},
)
