"""OLMo 1 (norms without weights, a clamp on q, k and v) and OLMo 2 (norms after blocks, and on q and k)."""

from scramble.architecture.family import Config, Constraint, Family, Table
from scramble.families.blocks import decoder


def _table(config: Config, layer: int) -> Table:
    table = {**decoder.ATTENTION, **decoder.GATED_MLP}
    if config["attention_bias"]:
        table |= {**decoder.QKV_BIAS, **decoder.O_BIAS}
    return table


def _outside(config: Config) -> Table:
    return {name: layout for name, layout in decoder.OUTSIDE.items() if name != "model.norm.weight"}


def _constraints(config: Config, layer: int) -> tuple[Constraint, ...]:
    rope = (*decoder.rope(config, layer), *decoder.LAYER_NORM)
    if config["clip_qkv"] is None:
        return rope
    clamps = tuple(Constraint("clamp", axis, "clip_qkv clamps q, k and v") for axis in ("qk", "v"))
    return (*rope, *clamps)


def _table2(config: Config, layer: int) -> Table:
    return {**_table(config, layer), **decoder.FULL_WIDTH_QK_NORM, **decoder.POST_NORMS}


def _constraints2(config: Config, layer: int) -> tuple[Constraint, ...]:
    return (*decoder.rope(config, layer), *decoder.QK_GAIN, *decoder.POST_NORM)


OLMO = Family(
    name="olmo",
    sizes=decoder.sizes,
    table=_table,
    outside=_outside,
    optional=decoder.optional,
    constraints=_constraints,
    defaults={**decoder.DEFAULTS, "attention_bias": False, "clip_qkv": None},
)
OLMO2 = Family(
    name="olmo2",
    sizes=decoder.sizes,
    table=_table2,
    outside=decoder.outside,
    optional=decoder.optional,
    constraints=_constraints2,
    defaults={**decoder.DEFAULTS, "attention_bias": False},
)
