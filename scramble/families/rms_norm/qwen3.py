"""Qwen 3 (dense): RMS norms with gains on q and k, and a head_dim that is not hidden / heads."""

from scramble.architecture.family import Config, Constraint, Family, Table
from scramble.families.blocks import decoder


def _table(config: Config, layer: int) -> Table:
    table = {**decoder.ATTENTION, **decoder.QK_NORM, **decoder.GATED_MLP, **decoder.PRE_NORMS}
    if config["attention_bias"]:
        table |= {**decoder.QKV_BIAS, **decoder.O_BIAS}
    return table


def _constraints(config: Config, layer: int) -> tuple[Constraint, ...]:
    return (*decoder.rope(config, layer), *decoder.QK_GAIN)


QWEN3 = Family(
    name="qwen3",
    sizes=decoder.sizes,
    table=_table,
    outside=decoder.outside,
    optional=decoder.optional,
    constraints=_constraints,
    defaults={**decoder.DEFAULTS, "num_key_value_heads": 32, "head_dim": 128, "attention_bias": False},
    folds=decoder.FOLDS,
)
