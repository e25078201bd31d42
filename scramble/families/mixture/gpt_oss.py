"""GPT-OSS: attention sinks, biases everywhere, and experts fused into one tensor, gate and up alternating.

The hub's checkpoints store the experts as MXFP4 blocks, which are copied and never changed.
"""

from typing import Any

from scramble.architecture.family import Config, Family, Table
from scramble.families.blocks import decoder

_ATTENTION: Table = {**decoder.ATTENTION, "self_attn.sinks": "(kv_head group)"}
_EXPERTS: Table = {
    "mlp.router.weight": "expert hidden",
    "mlp.router.bias": "expert",
    "mlp.experts.gate_up_proj": "[expert] hidden (expert_neuron~ pair)",
    "mlp.experts.gate_up_proj_bias": "[expert] (expert_neuron~ pair)",
    "mlp.experts.down_proj": "[expert] expert_neuron~ hidden",
    "mlp.experts.down_proj_bias": "[expert] hidden",
}


def _sizes(config: Config, layer: int | None = None) -> dict[str, Any]:
    found = decoder.sizes(config)
    return found | {"expert": config["num_local_experts"], "expert_neuron": found["neuron"], "pair": 2}


def _table(config: Config, layer: int) -> Table:
    bias = {**decoder.QKV_BIAS, **decoder.O_BIAS} if config["attention_bias"] else {}
    return {**_ATTENTION, **bias, **_EXPERTS, **decoder.PRE_NORMS}


GPT_OSS = Family(
    name="gpt_oss",
    sizes=_sizes,
    table=_table,
    outside=decoder.outside,
    optional=decoder.optional,
    constraints=decoder.rope,
    defaults={**decoder.DEFAULTS, "num_key_value_heads": 8, "head_dim": 64, "attention_bias": True},
    aliases={"num_experts": "num_local_experts"},
    folds=decoder.FOLDS
    | {"post_attention_layernorm.weight": ("mlp.router.weight", "mlp.experts.gate_up_proj")},
)
