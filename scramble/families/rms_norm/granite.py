"""Granite 3: Llama's layout; its multipliers are scalars and commute with everything here."""

from scramble.architecture.family import Family
from scramble.families.blocks import decoder
from scramble.families.rms_norm.llama import LLAMA

GRANITE = Family(
    name="granite",
    sizes=decoder.sizes,
    table=LLAMA.table,
    outside=decoder.outside,
    optional=decoder.optional,
    buffers=decoder.BUFFERS,
    constraints=decoder.rope,
    defaults={**decoder.DEFAULTS, "attention_bias": False, "mlp_bias": False},
    folds=decoder.FOLDS,
)
