"""GLM-4: `glm` (GLM-4-9B) and `glm4` (GLM-4-0414, with norms after each block); interleaved positions."""

from functools import partial

from scramble.families import decoder
from scramble.families.family import Config, Constraint, Family, Table

_POST_NORMS: Table = {
    "post_self_attn_layernorm.weight": "|hidden|",
    "post_mlp_layernorm.weight": "|hidden|",
}


def _table(config: Config, layer: int) -> Table:
    bias = decoder.QKV_BIAS if config.get("attention_bias", True) else {}
    return {**decoder.ATTENTION, **bias, **decoder.FUSED_MLP, **decoder.PRE_NORMS, **decoder.ROTARY_BUFFER}


def _table4(config: Config, layer: int) -> Table:
    return {**_table(config, layer), **_POST_NORMS}


def _constraints(config: Config, layer: int) -> tuple[Constraint, ...]:
    return decoder.rope(config, layer, layout="interleaved", part=0.5, rounded_up=True)


def _constraints4(config: Config, layer: int) -> tuple[Constraint, ...]:
    return (*_constraints(config, layer), *decoder.POST_NORM)


_SIZES = partial(decoder.sizes, kv_heads=2, head_dim=128)
GLM = Family(
    name="glm",
    sizes=_SIZES,
    table=_table,
    outside=decoder.outside,
    optional=decoder.optional,
    buffers=decoder.BUFFERS,
    constraints=_constraints,
    folds=decoder.FOLDS,
)
GLM4 = Family(
    name="glm4",
    sizes=_SIZES,
    table=_table4,
    outside=decoder.outside,
    optional=decoder.optional,
    buffers=decoder.BUFFERS,
    constraints=_constraints4,
)
