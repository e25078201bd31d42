"""The parts that decoder families share, as tables: a family is a union of parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from scramble.architecture.family import Config, Constraint, Table
from scramble.errors import UnknownFamilyError

ATTENTION: Table = {
    "self_attn.q_proj.weight": "(kv_head group qk) hidden",
    "self_attn.k_proj.weight": "(kv_head qk*) hidden",
    "self_attn.v_proj.weight": "(kv_head v) hidden",
    "self_attn.o_proj.weight": "hidden (kv_head group v*)",
}
QKV_BIAS: Table = {
    "self_attn.q_proj.bias": "(kv_head group qk)",
    "self_attn.k_proj.bias": "(kv_head qk*)",
    "self_attn.v_proj.bias": "(kv_head v)",
}
O_BIAS: Table = {"self_attn.o_proj.bias": "hidden"}
QK_NORM: Table = {"self_attn.q_norm.weight": "|qk|", "self_attn.k_norm.weight": "|qk|"}
PLAIN_MLP: Table = {"mlp.c_fc.weight": "neuron~ hidden", "mlp.c_proj.weight": "hidden neuron~"}
PLAIN_MLP_BIAS: Table = {"mlp.c_fc.bias": "neuron~", "mlp.c_proj.bias": "hidden"}
FUSED_ATTENTION: Table = {
    "self_attn.qkv_proj.weight": "(kv_head group qk + kv_head qk* + kv_head v) hidden",
    "self_attn.o_proj.weight": "hidden (kv_head group v*)",
}
FUSED_MLP: Table = {
    "mlp.gate_up_proj.weight": "(neuron~ + neuron) hidden",
    "mlp.down_proj.weight": "hidden neuron*",
}
GATED_MLP: Table = {
    "mlp.gate_proj.weight": "neuron~ hidden",
    "mlp.up_proj.weight": "neuron hidden",
    "mlp.down_proj.weight": "hidden neuron*",
}
GATED_MLP_BIAS: Table = {
    "mlp.gate_proj.bias": "neuron~",
    "mlp.up_proj.bias": "neuron",
    "mlp.down_proj.bias": "hidden",
}
FULL_WIDTH_QK_NORM: Table = {
    "self_attn.q_norm.weight": "(kv_head group |qk|)",
    "self_attn.k_norm.weight": "(kv_head |qk|)",
}
POST_NORMS: Table = {
    "post_attention_layernorm.weight": "|hidden|",
    "post_feedforward_layernorm.weight": "|hidden|",
}
PRE_NORMS: Table = {"input_layernorm.weight": "|hidden|", "post_attention_layernorm.weight": "|hidden|"}
# Older conversions store the rotary frequencies, one a plane of the `qk` axis: not weights.
ROTARY_BUFFER: Table = {"self_attn.rotary_emb.inv_freq": "plane"}
BUFFERS = frozenset({"self_attn.rotary_emb.inv_freq"})
# Which linear maps read each norm; those that a layer does not have are passed over.
FOLDS = {
    "input_layernorm.weight": tuple(f"self_attn.{name}_proj.weight" for name in ("q", "k", "v", "qkv")),
    "post_attention_layernorm.weight": (
        *(f"mlp.{name}_proj.weight" for name in ("gate", "up", "gate_up")),
        *(f"mlp.experts.{{expert}}.{name}_proj.weight" for name in ("gate", "up")),
        *(f"mlp.shared_expert.{name}_proj.weight" for name in ("gate", "up")),
        *(f"mlp.shared_experts.{name}_proj.weight" for name in ("gate", "up")),
        "mlp.experts.gate_up_proj",
        "mlp.gate.weight",
        "mlp.shared_expert_gate.weight",
    ),
    "model.norm.weight": ("lm_head.weight",),
}
QK_GAIN = (Constraint("gain", "qk", "q_norm and k_norm scale each qk channel"),)
QK_LAYER_NORM = (Constraint("layer_norm", "qk", "q and k pass a LayerNorm"),)
LAYER_NORM = (Constraint("layer_norm", "hidden", "the norms are LayerNorms"),)
POST_NORM = (Constraint("post_norm", "hidden", "norms follow the blocks"),)
OUTSIDE: Table = {
    "model.embed_tokens.weight": "vocab hidden",
    "model.norm.weight": "|hidden|",
    "lm_head.weight": "vocab hidden",
}


# What the usual keys are taken for where `config.json` leaves them out. `head_dim` and the number of KV heads
# are then derived, as they are from a null.
DEFAULTS: Mapping[str, Any] = {
    "tie_word_embeddings": False,
    "num_key_value_heads": None,
    "head_dim": None,
    "rope_scaling": None,
    "rope_parameters": None,
    "partial_rotary_factor": None,
}


def outside(config: Config) -> Table:
    return OUTSIDE


def sizes(config: Config, layer: int | None = None) -> dict[str, Any]:
    """Axis lengths from the usual config keys."""
    heads = config["num_attention_heads"]
    kv_heads = config["num_key_value_heads"] or heads
    if heads % kv_heads:
        raise UnknownFamilyError(f"config.json: {heads} query heads do not divide into {kv_heads} KV heads")
    channels = head_dim(config)
    return {
        "kv_head": kv_heads,
        "group": heads // kv_heads,
        "qk": channels,
        "v": channels,
        "plane": channels // 2,
        "hidden": config["hidden_size"],
        "neuron": config["intermediate_size"],
        "vocab": config["vocab_size"],
    }


def head_dim(config: Config) -> Any:
    """Channels of a head: `head_dim` where the config has it, which need not be hidden / heads (Qwen3)."""
    return config["head_dim"] or config["hidden_size"] // config["num_attention_heads"]


def rope(
    config: Config,
    layer: int,
    *,
    axis: str = "qk",
    layout: Literal["half", "interleaved"] = "half",
    part: str | None = None,
    rounded_up: bool = False,
) -> tuple[Constraint, ...]:
    """Rotary positions on all channels, or on the part that the config says.

    Args:
        part: the key that holds the part beside the rotary settings, in families that can leave channels
            without positions.
        rounded_up: an odd number of channels is rounded up; otherwise it is refused.

    Raises:
        UnknownFamilyError: a part in a family that has none, or one that is not usable.
    """
    asked = _part(config, part or "partial_rotary_factor")
    if not isinstance(asked, int | float) or not 0 < asked <= 1 or (part is None and asked != 1):
        raise UnknownFamilyError(f"config.json: rotary positions on a part of {asked} are not known here")
    channels = int(head_dim(config) * asked)
    if channels % 2 and not rounded_up:
        raise UnknownFamilyError(f"config.json: positions on {channels} channels, which are not pairs")
    channels += channels % 2
    note = f"rotary positions act on pairs of {axis} channels"
    return (Constraint("rope", axis, note, layout=layout, channels=channels),)


def _part(config: Config, key: str) -> Any:
    """The part of the channels that has rotary positions.

    It stands in the rotary settings (`rope_scaling`, which overrules `rope_parameters`), in those of each
    layer type, or beside them; a null beside them means all channels.

    Raises:
        UnknownFamilyError: layer types have different parts.
    """
    settings = config["rope_scaling"] or config["rope_parameters"] or {}
    if not isinstance(settings, dict):
        raise UnknownFamilyError(f"config.json: rotary settings of {settings!r} are not known here")
    beside = 1.0 if config[key] is None else config[key]
    nested = [one for one in settings.values() if isinstance(one, dict)]
    parts = [one.get("partial_rotary_factor", beside) for one in (settings, *nested)]
    if any(one != parts[0] for one in parts):
        raise UnknownFamilyError(
            "config.json: rotary positions on another part by layer type are not known here"
        )
    return parts[0]


def optional(config: Config) -> frozenset[str]:
    """What a checkpoint may lack."""
    return frozenset({"lm_head.weight"} if config["tie_word_embeddings"] else ())
