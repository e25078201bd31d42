"""Qwen 2 and 2.5 (DeepSeek-R1-Distill-Qwen): biases on q, k and v, none on the output projection."""

from scramble.architecture.family import Config, Family, Table
from scramble.families.blocks import decoder


def _table(config: Config, layer: int) -> Table:
    return {**decoder.ATTENTION, **decoder.QKV_BIAS, **decoder.GATED_MLP, **decoder.PRE_NORMS}


QWEN2 = Family(
    name="qwen2",
    sizes=decoder.sizes,
    table=_table,
    outside=decoder.outside,
    optional=decoder.optional,
    constraints=decoder.rope,
    defaults={**decoder.DEFAULTS, "num_key_value_heads": 32},
    folds=decoder.FOLDS,
)
