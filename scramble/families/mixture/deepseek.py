"""DeepSeek V3 (and R1): multi-head latent attention, and experts that are routed by groups.

Queries and keys have a part without positions (`qk`), drawn up from a latent vector for every head, and a
rotary part (`qk_rope`) whose keys all heads share.
"""

from typing import Any, Literal

from scramble.architecture.family import Config, Constraint, Family, Table
from scramble.families.blocks import decoder
from scramble.families.mixture.mixtral import EXPERTS, FUSED_EXPERTS

_ATTENTION: Table = {
    "self_attn.kv_a_proj_with_mqa.weight": "(kv_latent + qk_rope*) hidden",
    "self_attn.kv_a_layernorm.weight": "|kv_latent|",
    "self_attn.kv_b_proj.weight": "(kv_head (qk* + v)) kv_latent",
    "self_attn.o_proj.weight": "hidden (kv_head group v*)",
}
_PLAIN_QUERY: Table = {"self_attn.q_proj.weight": "(kv_head group (qk + qk_rope)) hidden"}
_LATENT_QUERY: Table = {
    "self_attn.q_a_proj.weight": "q_latent hidden",
    "self_attn.q_a_layernorm.weight": "|q_latent|",
    "self_attn.q_b_proj.weight": "(kv_head group (qk + qk_rope)) q_latent",
}
_BIAS: Table = {
    "self_attn.kv_a_proj_with_mqa.bias": "(kv_latent + qk_rope*)",
    "self_attn.o_proj.bias": "hidden",
}
_SHARED_EXPERTS: Table = {
    "mlp.shared_experts.gate_proj.weight": "shared_neuron~ hidden",
    "mlp.shared_experts.up_proj.weight": "shared_neuron hidden",
    "mlp.shared_experts.down_proj.weight": "hidden shared_neuron*",
    "mlp.gate.e_score_correction_bias": "expert",
}
# What an MTP layer has beside what a layer has; the embedding and the head are copies.
_MTP: Table = {
    "embed_tokens.weight": "vocab hidden",
    "enorm.weight": "|hidden|",
    "hnorm.weight": "|hidden|",
    "eh_proj.weight": "hidden (hidden + hidden)",
    "shared_head.norm.weight": "|hidden|",
    "shared_head.head.weight": "vocab hidden",
}


def _sizes(config: Config, layer: int | None = None) -> dict[str, Any]:
    neuron = config["moe_intermediate_size"]
    found = {
        "kv_head": config["num_attention_heads"],
        "group": 1,
        "qk": config["qk_nope_head_dim"],
        "qk_rope": config["qk_rope_head_dim"],
        "v": config["v_head_dim"],
        "kv_latent": config["kv_lora_rank"],
        "hidden": config["hidden_size"],
        "neuron": config["intermediate_size"],
        "expert": config["n_routed_experts"],
        "expert_neuron": neuron,
        "shared_neuron": neuron * (config["n_shared_experts"] or 1),
        "vocab": config["vocab_size"],
    }
    return found | ({"q_latent": config["q_lora_rank"]} if config["q_lora_rank"] else {})


def _table(config: Config, layer: int) -> Table:
    query = _LATENT_QUERY if config["q_lora_rank"] else _PLAIN_QUERY
    table: dict[str, str] = {**_ATTENTION, **query, **decoder.PRE_NORMS}
    if config["attention_bias"]:
        table |= {**_BIAS, **({"self_attn.q_a_proj.bias": "q_latent"} if config["q_lora_rank"] else {})}
    if layer >= config["first_k_dense_replace"]:
        return {**table, **EXPERTS, **_SHARED_EXPERTS}
    return {**table, **decoder.GATED_MLP}


def _mtp(config: Config) -> list[Table]:
    count, layers = config["num_mtp_layers"] or 0, config["num_hidden_layers"]
    return [{**_table(config, layer), **_MTP} for layer in range(layers, layers + count)]


def _constraints(config: Config, layer: int) -> tuple[Constraint, ...]:
    layout: Literal["interleaved", "half"] = "interleaved" if config["rope_interleave"] else "half"
    rotary = {**config, "head_dim": config["qk_rope_head_dim"]}
    rope = decoder.rope(rotary, layer, axis="qk_rope", layout=layout)
    if layer < config["first_k_dense_replace"]:
        return rope
    groups = config["n_group"] or 1
    return (*rope, Constraint("routing", "expert", "routing chooses groups of experts first", groups=groups))


_READS_ATTENTION = ("q_proj", "q_a_proj", "kv_a_proj_with_mqa")
DEEPSEEK_V3 = Family(
    name="deepseek_v3",
    sizes=_sizes,
    table=_table,
    outside=decoder.outside,
    mtp=_mtp,
    optional=decoder.optional,
    constraints=_constraints,
    defaults={
        "tie_word_embeddings": False,
        "attention_bias": False,
        "q_lora_rank": 1536,
        "n_shared_experts": 1,
        "first_k_dense_replace": 3,
        "n_group": 8,
        "rope_interleave": True,
        "rope_scaling": None,
        "rope_parameters": None,
        "partial_rotary_factor": None,
        "num_mtp_layers": 1,
    },
    aliases={"num_local_experts": "n_routed_experts", "num_nextn_predict_layers": "num_mtp_layers"},
    alternatives=FUSED_EXPERTS,
    folds=decoder.FOLDS
    | {"input_layernorm.weight": tuple(f"self_attn.{name}.weight" for name in _READS_ATTENTION)},
)
