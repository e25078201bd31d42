"""Mixtures of experts in Llama's layout: Mixtral, Qwen 2 and Qwen 3 MoE.

Experts stand in tensors' names; or a layer's experts in one tensor, as transformers holds them in memory.
"""

from typing import Any

from scramble.architecture.family import Config, Constraint, Family, Table
from scramble.families.blocks import decoder

_ROUTED: Table = {
    "mlp.experts.{expert}.gate_proj.weight": "expert_neuron~ hidden",
    "mlp.experts.{expert}.up_proj.weight": "expert_neuron hidden",
    "mlp.experts.{expert}.down_proj.weight": "hidden expert_neuron*",
}
_ROUTER: Table = {"mlp.gate.weight": "expert hidden"}
EXPERTS: Table = {**_ROUTED, **_ROUTER}
_FUSED: Table = {
    "mlp.experts.gate_up_proj": "[expert] (expert_neuron~ + expert_neuron) hidden",
    "mlp.experts.down_proj": "[expert] hidden expert_neuron*",
}
FUSED_EXPERTS = ((_ROUTED, _FUSED),)
_MIXTRAL: Table = {
    "block_sparse_moe.gate.weight": "expert hidden",
    "block_sparse_moe.experts.{expert}.w1.weight": "expert_neuron~ hidden",
    "block_sparse_moe.experts.{expert}.w3.weight": "expert_neuron hidden",
    "block_sparse_moe.experts.{expert}.w2.weight": "hidden expert_neuron*",
}
_SHARED_EXPERT: Table = {
    "mlp.shared_expert.gate_proj.weight": "shared_neuron~ hidden",
    "mlp.shared_expert.up_proj.weight": "shared_neuron hidden",
    "mlp.shared_expert.down_proj.weight": "hidden shared_neuron*",
    "mlp.shared_expert_gate.weight": "one hidden",
}


def _mixtral_sizes(config: Config, layer: int | None = None) -> dict[str, Any]:
    found = decoder.sizes(config)
    return found | {"expert": config["num_local_experts"], "expert_neuron": found["neuron"]}


def _qwen_sizes(config: Config, layer: int | None = None) -> dict[str, Any]:
    found = decoder.sizes(config)
    if config["num_experts"]:
        found |= {"expert": config["num_experts"], "expert_neuron": config["moe_intermediate_size"]}
    if config["shared_expert_intermediate_size"]:
        found |= {"shared_neuron": config["shared_expert_intermediate_size"], "one": 1}
    return found


def _mixtral_table(config: Config, layer: int) -> Table:
    return {**decoder.ATTENTION, **decoder.PRE_NORMS, **_MIXTRAL}


def _is_sparse(config: Config, layer: int) -> bool:
    dense = layer in (config["mlp_only_layers"] or ()) or not config["num_experts"]
    return not dense and (layer + 1) % (config["decoder_sparse_step"] or 1) == 0


def _qwen2_table(config: Config, layer: int) -> Table:
    mlp = {**EXPERTS, **_SHARED_EXPERT} if _is_sparse(config, layer) else decoder.GATED_MLP
    bias = decoder.QKV_BIAS if config["qkv_bias"] else {}
    return {**decoder.ATTENTION, **bias, **decoder.PRE_NORMS, **mlp}


def _qwen3_table(config: Config, layer: int) -> Table:
    mlp = EXPERTS if _is_sparse(config, layer) else decoder.GATED_MLP
    bias = {**decoder.QKV_BIAS, **decoder.O_BIAS} if config["attention_bias"] else {}
    return {**decoder.ATTENTION, **bias, **decoder.QK_NORM, **decoder.PRE_NORMS, **mlp}


def _qwen3_constraints(config: Config, layer: int) -> tuple[Constraint, ...]:
    return (*decoder.rope(config, layer), *decoder.QK_GAIN)


_SPARSE = {"mlp_only_layers": None, "decoder_sparse_step": 1, "shared_expert_intermediate_size": None}
MIXTRAL = Family(
    name="mixtral",
    sizes=_mixtral_sizes,
    table=_mixtral_table,
    outside=decoder.outside,
    optional=decoder.optional,
    constraints=decoder.rope,
    defaults={**decoder.DEFAULTS, "num_key_value_heads": 8},
    aliases={"num_experts": "num_local_experts"},
    alternatives=((_MIXTRAL, {**_FUSED, **_ROUTER}),),
    folds=decoder.FOLDS
    | {
        "post_attention_layernorm.weight": (
            *(name for name in _MIXTRAL if "w2" not in name),
            *("mlp.experts.gate_up_proj", "mlp.gate.weight"),
        )
    },
)
QWEN2_MOE = Family(
    name="qwen2_moe",
    sizes=_qwen_sizes,
    table=_qwen2_table,
    outside=decoder.outside,
    optional=decoder.optional,
    constraints=decoder.rope,
    defaults={
        **decoder.DEFAULTS,
        **_SPARSE,
        "num_key_value_heads": 16,
        "shared_expert_intermediate_size": 5632,
        "qkv_bias": True,
    },
    alternatives=FUSED_EXPERTS,
    folds=decoder.FOLDS,
)
QWEN3_MOE = Family(
    name="qwen3_moe",
    sizes=_qwen_sizes,
    table=_qwen3_table,
    outside=decoder.outside,
    optional=decoder.optional,
    constraints=_qwen3_constraints,
    defaults={**decoder.DEFAULTS, **_SPARSE, "num_key_value_heads": 4, "attention_bias": False},
    aliases={"num_local_experts": "num_experts"},
    alternatives=FUSED_EXPERTS,
    folds=decoder.FOLDS,
)
