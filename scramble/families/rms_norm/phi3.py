"""Phi 3 and 4: q, k and v fused, gate and up fused, and positions on a part of the channels."""

from functools import partial

from scramble.architecture.family import Config, Family, Table
from scramble.families.blocks import decoder


def _table(config: Config, layer: int) -> Table:
    return {**decoder.FUSED_ATTENTION, **decoder.FUSED_MLP, **decoder.PRE_NORMS}


PHI3 = Family(
    name="phi3",
    sizes=decoder.sizes,
    table=_table,
    outside=decoder.outside,
    optional=decoder.optional,
    constraints=partial(decoder.rope, part="partial_rotary_factor", rounded_up=True),
    defaults=decoder.DEFAULTS,
    folds=decoder.FOLDS,
)
