"""StableLM 2: LayerNorms, positions on a quarter of the channels, in some sizes a LayerNorm of each head."""

from scramble.architecture.family import Config, Constraint, Family, Table
from scramble.families.blocks import decoder

_NORM: Table = {"input_layernorm.weight": "|hidden|", "input_layernorm.bias": "hidden"}
_SECOND_NORM: Table = {
    "post_attention_layernorm.weight": "|hidden|",
    "post_attention_layernorm.bias": "hidden",
}
_HEAD_NORMS: Table = {
    "self_attn.q_layernorm.norms.{kv_head group}.weight": "|qk|",
    "self_attn.k_layernorm.norms.{kv_head}.weight": "|qk|",
}


def _table(config: Config, layer: int) -> Table:
    table = {**decoder.ATTENTION, **decoder.GATED_MLP, **_NORM, **decoder.ROTARY_BUFFER}
    if config["use_qkv_bias"]:
        table |= decoder.QKV_BIAS
    if config["qk_layernorm"]:
        table |= _HEAD_NORMS
    if not config["use_parallel_residual"]:
        table |= _SECOND_NORM
    return table


def _constraints(config: Config, layer: int) -> tuple[Constraint, ...]:
    normed = decoder.QK_LAYER_NORM if config["qk_layernorm"] else ()
    return (*decoder.rope(config, layer, part="partial_rotary_factor"), *normed, *decoder.LAYER_NORM)


STABLELM = Family(
    name="stablelm",
    sizes=decoder.sizes,
    table=_table,
    outside=lambda config: {**decoder.OUTSIDE, "model.norm.bias": "hidden"},
    optional=decoder.optional,
    buffers=decoder.BUFFERS,
    constraints=_constraints,
    defaults={
        **decoder.DEFAULTS,
        "num_key_value_heads": 32,
        "partial_rotary_factor": 0.25,
        "use_qkv_bias": False,
        "qk_layernorm": False,
        "use_parallel_residual": False,
    },
)
