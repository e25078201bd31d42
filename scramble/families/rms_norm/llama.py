"""Llama 1, 2, 3 and the many models in its layout (SmolLM 2, DeepSeek-R1-Distill-Llama)."""

from scramble.architecture.family import Config, Family, Table
from scramble.families.blocks import decoder


def _table(config: Config, layer: int) -> Table:
    table = {**decoder.ATTENTION, **decoder.GATED_MLP, **decoder.PRE_NORMS, **decoder.ROTARY_BUFFER}
    if config["attention_bias"]:
        table |= {**decoder.QKV_BIAS, **decoder.O_BIAS}
    if config["mlp_bias"]:
        table |= decoder.GATED_MLP_BIAS
    return table


LLAMA = Family(
    name="llama",
    sizes=decoder.sizes,
    table=_table,
    outside=decoder.outside,
    optional=decoder.optional,
    buffers=decoder.BUFFERS,
    constraints=decoder.rope,
    defaults={**decoder.DEFAULTS, "attention_bias": False, "mlp_bias": False},
    folds=decoder.FOLDS,
)
