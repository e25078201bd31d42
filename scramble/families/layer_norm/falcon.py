"""Falcon: q, k and v fused KV head after KV head, with one KV head, a few, or as many as query heads."""

from typing import Any

from scramble.architecture.family import Config, Constraint, Family, Table
from scramble.families.blocks import decoder

_QKV = "(kv_head (group qk + qk* + v))"
_LAYER: Table = {
    "self_attention.query_key_value.weight": f"{_QKV} hidden",
    "self_attention.dense.weight": "hidden (kv_head group v*)",
    "mlp.dense_h_to_4h.weight": "neuron~ hidden",
    "mlp.dense_4h_to_h.weight": "hidden neuron~",
}
_BIAS: Table = {
    "self_attention.query_key_value.bias": _QKV,
    "self_attention.dense.bias": "hidden",
    "mlp.dense_h_to_4h.bias": "neuron~",
    "mlp.dense_4h_to_h.bias": "hidden",
}
_OUTSIDE: Table = {
    "transformer.word_embeddings.weight": "vocab hidden",
    "transformer.ln_f.weight": "|hidden|",
    "transformer.ln_f.bias": "hidden",
    "lm_head.weight": "vocab hidden",
}


def _sizes(config: Config, layer: int | None = None) -> dict[str, Any]:
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    several = config["new_decoder_architecture"] or not config["multi_query"]
    named = {
        "num_attention_heads": heads,
        "num_key_value_heads": (config["num_kv_heads"] or heads) if several else 1,
        "hidden_size": hidden,
        "intermediate_size": config["ffn_hidden_size"] or 4 * hidden,
        "vocab_size": config["vocab_size"],
        "head_dim": None,
    }
    return decoder.sizes(named)


def _norms(config: Config) -> tuple[str, ...]:
    if not config["parallel_attn"]:
        return "input_layernorm", "post_attention_layernorm"
    two = config["num_ln_in_parallel_attn"] or (2 if config["new_decoder_architecture"] else 1)
    return ("ln_attn", "ln_mlp") if two == 2 else ("input_layernorm",)


def _table(config: Config, layer: int) -> Table:
    norms = {f"{name}.weight": "|hidden|" for name in _norms(config)}
    norms |= {f"{name}.bias": "hidden" for name in _norms(config)}
    return {**_LAYER, **(_BIAS if config["bias"] else {}), **norms}


def _constraints(config: Config, layer: int) -> tuple[Constraint, ...]:
    if config["alibi"]:
        alibi = Constraint("alibi", "kv_head", "ALiBi adds a slope of its own to each head")
        return (alibi, *decoder.LAYER_NORM)
    return (*decoder.rope(config, layer), *decoder.LAYER_NORM)


FALCON = Family(
    name="falcon",
    sizes=_sizes,
    table=_table,
    outside=lambda config: _OUTSIDE,
    embedding="transformer.word_embeddings",
    optional=decoder.optional,
    constraints=_constraints,
    defaults={
        **decoder.DEFAULTS,
        "tie_word_embeddings": True,
        "new_decoder_architecture": False,
        "multi_query": True,
        "num_kv_heads": None,
        "ffn_hidden_size": None,
        "parallel_attn": True,
        "num_ln_in_parallel_attn": None,
        "bias": False,
        "alibi": False,
    },
    aliases={"n_embed": "hidden_size"},
    layer="transformer.h.{layer}.",
    base="transformer.",
)
