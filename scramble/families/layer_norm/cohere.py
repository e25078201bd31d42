"""Cohere (Command R): attention and MLP in parallel under one LayerNorm, interleaved rotary positions."""

from scramble.architecture.family import Config, Constraint, Family, Table
from scramble.families.blocks import decoder

_HEAD_NORMS: Table = {
    "self_attn.q_norm.weight": "(kv_head group) |qk|",
    "self_attn.k_norm.weight": "kv_head |qk|",
}


def _table(config: Config, layer: int) -> Table:
    table = {**decoder.ATTENTION, **decoder.GATED_MLP, "input_layernorm.weight": "|hidden|"}
    if config["attention_bias"]:
        table |= {**decoder.QKV_BIAS, **decoder.O_BIAS}
    if config["use_qk_norm"]:
        table |= _HEAD_NORMS
    return table


def _constraints(config: Config, layer: int) -> tuple[Constraint, ...]:
    normed = decoder.QK_LAYER_NORM if config["use_qk_norm"] else ()
    return (*decoder.rope(config, layer, layout="interleaved"), *normed, *decoder.LAYER_NORM)


COHERE = Family(
    name="cohere",
    sizes=decoder.sizes,
    table=_table,
    outside=decoder.outside,
    optional=decoder.optional,
    constraints=_constraints,
    defaults={**decoder.DEFAULTS, "tie_word_embeddings": True, "attention_bias": False, "use_qk_norm": False},
)
