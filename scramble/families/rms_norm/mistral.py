"""Mistral: Llama's layout without biases; the config may give a head_dim of its own (Nemo, Small)."""

from scramble.architecture.family import Config, Family, Table
from scramble.families.blocks import decoder


def _table(config: Config, layer: int) -> Table:
    return {**decoder.ATTENTION, **decoder.GATED_MLP, **decoder.PRE_NORMS, **decoder.ROTARY_BUFFER}


MISTRAL = Family(
    name="mistral",
    sizes=decoder.sizes,
    table=_table,
    outside=decoder.outside,
    optional=decoder.optional,
    buffers=decoder.BUFFERS,
    constraints=decoder.rope,
    defaults={**decoder.DEFAULTS, "num_key_value_heads": 8},
    folds=decoder.FOLDS,
)
