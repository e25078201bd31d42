"""GPT-NeoX (Pythia): q, k and v fused head after head, positions on a quarter of the channels."""

from typing import Any

from scramble.architecture.family import Config, Constraint, Family, Table
from scramble.families.blocks import decoder

_QKV = "(kv_head (group qk + qk* + v))"
_ATTENTION: Table = {
    "attention.query_key_value.weight": f"{_QKV} hidden",
    "attention.dense.weight": "hidden (kv_head group v*)",
}
_BIAS: Table = {"attention.query_key_value.bias": _QKV, "attention.dense.bias": "hidden"}
_REST: Table = {
    "mlp.dense_h_to_4h.weight": "neuron~ hidden",
    "mlp.dense_h_to_4h.bias": "neuron~",
    "mlp.dense_4h_to_h.weight": "hidden neuron~",
    "mlp.dense_4h_to_h.bias": "hidden",
    "input_layernorm.weight": "|hidden|",
    "input_layernorm.bias": "hidden",
    "post_attention_layernorm.weight": "|hidden|",
    "post_attention_layernorm.bias": "hidden",
}
# Older conversions store the causal mask and the rotary frequencies.
_BUFFERS: Table = {
    "attention.bias": "one one position position",
    "attention.masked_bias": "",
    "attention.rotary_emb.inv_freq": "plane",
}
_OUTSIDE: Table = {
    "gpt_neox.embed_in.weight": "vocab hidden",
    "gpt_neox.final_layer_norm.weight": "|hidden|",
    "gpt_neox.final_layer_norm.bias": "hidden",
    "embed_out.weight": "vocab hidden",
}


def _plain(config: Config) -> Config:
    """Without the keys for heads that transformers' model of this family does not read."""
    return {**config, "num_key_value_heads": None, "head_dim": None}


def _rope(config: Config, layer: int) -> tuple[Constraint, ...]:
    return decoder.rope(_plain(config), layer, part="rotary_pct")


def _sizes(config: Config, layer: int | None = None) -> dict[str, Any]:
    channels = _rope(config, 0)[0].channels or 0
    return decoder.sizes(_plain(config)) | {
        "plane": channels // 2,
        "position": config["max_position_embeddings"],
        "one": 1,
    }


def _table(config: Config, layer: int) -> Table:
    return {**_ATTENTION, **(_BIAS if config["attention_bias"] else {}), **_REST, **_BUFFERS}


def _constraints(config: Config, layer: int) -> tuple[Constraint, ...]:
    return (*_rope(config, layer), *decoder.LAYER_NORM)


def _optional(config: Config) -> frozenset[str]:
    return frozenset({"embed_out.weight"} if config["tie_word_embeddings"] else ())


GPT_NEOX = Family(
    name="gpt_neox",
    sizes=_sizes,
    table=_table,
    outside=lambda config: _OUTSIDE,
    head="embed_out",
    embedding="gpt_neox.embed_in",
    optional=_optional,
    buffers=frozenset(_BUFFERS),
    constraints=_constraints,
    defaults={
        **decoder.DEFAULTS,
        "rotary_pct": 0.25,
        "attention_bias": True,
        "max_position_embeddings": 2048,
    },
    layer="gpt_neox.layers.{layer}.",
    base="gpt_neox.",
)
