"""Phi 3 and 4: q, k and v fused, gate and up fused, and positions on a part of the channels."""

from scramble.families import decoder
from scramble.families.family import Config, Constraint, Family, Table


def _table(config: Config, layer: int) -> Table:
    return {**decoder.FUSED_ATTENTION, **decoder.FUSED_MLP, **decoder.PRE_NORMS}


def _constraints(config: Config, layer: int) -> tuple[Constraint, ...]:
    parameters = config.get("rope_parameters") or {}
    part = parameters.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0
    channels = int(decoder.sizes(config)["qk"] * part)
    channels += channels % 2  # an odd number is rounded up: frequencies belong to pairs
    note = "rotary positions act on pairs of qk channels"
    return (Constraint("rope", "qk", note, layout="half", channels=channels),)


PHI3 = Family(
    name="phi3",
    sizes=decoder.sizes,
    table=_table,
    outside=decoder.outside,
    optional=decoder.optional,
    constraints=_constraints,
)
