"""OLMo 2: RMS norms after each block, and over the full width of q and k."""

from scramble.architecture.family import Config, Constraint, Family, Table
from scramble.families.blocks import decoder


def _table(config: Config, layer: int) -> Table:
    table = {**decoder.ATTENTION, **decoder.GATED_MLP, **decoder.FULL_WIDTH_QK_NORM, **decoder.POST_NORMS}
    if config["attention_bias"]:
        table |= {**decoder.QKV_BIAS, **decoder.O_BIAS}
    return table


def _constraints(config: Config, layer: int) -> tuple[Constraint, ...]:
    return (*decoder.rope(config, layer), *decoder.QK_GAIN, *decoder.POST_NORM)


OLMO2 = Family(
    name="olmo2",
    sizes=decoder.sizes,
    table=_table,
    outside=decoder.outside,
    optional=decoder.optional,
    constraints=_constraints,
    defaults={**decoder.DEFAULTS, "attention_bias": False},
)
