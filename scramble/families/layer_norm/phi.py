"""Phi 1, 1.5 and 2: attention and MLP in parallel under one LayerNorm, positions on half of the channels."""

from scramble.architecture.family import Config, Constraint, Family, Table
from scramble.families.blocks import decoder

_LAYER: Table = {
    "self_attn.q_proj.weight": "(kv_head group qk) hidden",
    "self_attn.k_proj.weight": "(kv_head qk*) hidden",
    "self_attn.v_proj.weight": "(kv_head v) hidden",
    "self_attn.dense.weight": "hidden (kv_head group v*)",
    "self_attn.dense.bias": "hidden",
    **decoder.QKV_BIAS,
    "mlp.fc1.weight": "neuron~ hidden",
    "mlp.fc1.bias": "neuron~",
    "mlp.fc2.weight": "hidden neuron~",
    "mlp.fc2.bias": "hidden",
    "input_layernorm.weight": "|hidden|",
    "input_layernorm.bias": "hidden",
}
_QK_LAYER_NORM: Table = {
    "self_attn.q_layernorm.weight": "|qk|",
    "self_attn.q_layernorm.bias": "qk",
    "self_attn.k_layernorm.weight": "|qk|",
    "self_attn.k_layernorm.bias": "qk",
}
_OUTSIDE: Table = {
    "model.embed_tokens.weight": "vocab hidden",
    "model.final_layernorm.weight": "|hidden|",
    "model.final_layernorm.bias": "hidden",
    "lm_head.weight": "vocab hidden",
    "lm_head.bias": "vocab",
}


def _table(config: Config, layer: int) -> Table:
    return {**_LAYER, **(_QK_LAYER_NORM if config["qk_layernorm"] else {}), **decoder.ROTARY_BUFFER}


def _constraints(config: Config, layer: int) -> tuple[Constraint, ...]:
    normed = decoder.QK_LAYER_NORM if config["qk_layernorm"] else ()
    return (*decoder.rope(config, layer, part="partial_rotary_factor"), *normed, *decoder.LAYER_NORM)


PHI = Family(
    name="phi",
    sizes=decoder.sizes,
    table=_table,
    outside=lambda config: _OUTSIDE,
    optional=decoder.optional,
    buffers=decoder.BUFFERS,
    constraints=_constraints,
    defaults={**decoder.DEFAULTS, "partial_rotary_factor": 0.5, "qk_layernorm": False},
)
