"""OLMo 1: LayerNorms without weights, and a clamp on q, k and v in some sizes."""

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


OLMO = Family(
    name="olmo",
    sizes=decoder.sizes,
    table=_table,
    outside=_outside,
    optional=decoder.optional,
    constraints=_constraints,
    defaults={**decoder.DEFAULTS, "attention_bias": False, "clip_qkv": None},
)
