"""GLM-4: `glm` (GLM-4-9B) and `glm4` (GLM-4-0414, with norms after each block); interleaved positions."""

from scramble.architecture.family import Config, Constraint, Family, Table
from scramble.families.blocks import decoder

_POST_NORMS: Table = {
    "post_self_attn_layernorm.weight": "|hidden|",
    "post_mlp_layernorm.weight": "|hidden|",
}


def _table(config: Config, layer: int) -> Table:
    bias = decoder.QKV_BIAS if config["attention_bias"] else {}
    return {**decoder.ATTENTION, **bias, **decoder.FUSED_MLP, **decoder.PRE_NORMS, **decoder.ROTARY_BUFFER}


def _table4(config: Config, layer: int) -> Table:
    return {**_table(config, layer), **_POST_NORMS}


def _constraints(config: Config, layer: int) -> tuple[Constraint, ...]:
    return decoder.rope(config, layer, layout="interleaved", part="partial_rotary_factor", rounded_up=True)


def _constraints4(config: Config, layer: int) -> tuple[Constraint, ...]:
    return (*_constraints(config, layer), *decoder.POST_NORM)


_DEFAULTS = {
    **decoder.DEFAULTS,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "attention_bias": True,
    "partial_rotary_factor": 0.5,
}
GLM = Family(
    name="glm",
    sizes=decoder.sizes,
    table=_table,
    outside=decoder.outside,
    optional=decoder.optional,
    buffers=decoder.BUFFERS,
    constraints=_constraints,
    defaults=_DEFAULTS,
    folds=decoder.FOLDS,
)
GLM4 = Family(
    name="glm4",
    sizes=decoder.sizes,
    table=_table4,
    outside=decoder.outside,
    optional=decoder.optional,
    buffers=decoder.BUFFERS,
    constraints=_constraints4,
    defaults=_DEFAULTS,
)
