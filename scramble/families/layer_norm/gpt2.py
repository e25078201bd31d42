"""GPT-2: weights stored transposed, q, k and v fused, learned positions."""

from typing import Any

from scramble.architecture.family import Config, Constraint, Family, Table
from scramble.families.blocks import decoder

_QKV = "(kv_head group qk + kv_head qk* + kv_head v)"
_LAYER: Table = {
    "attn.c_attn.weight": f"hidden {_QKV}",
    "attn.c_attn.bias": _QKV,
    "attn.c_proj.weight": "(kv_head group v*) hidden",
    "attn.c_proj.bias": "hidden",
    "mlp.c_fc.weight": "hidden neuron~",
    "mlp.c_fc.bias": "neuron~",
    "mlp.c_proj.weight": "neuron~ hidden",
    "mlp.c_proj.bias": "hidden",
    "ln_1.weight": "|hidden|",
    "ln_1.bias": "hidden",
    "ln_2.weight": "|hidden|",
    "ln_2.bias": "hidden",
}
# Older conversions store the causal mask.
_MASK: Table = {"attn.bias": "one one position position", "attn.masked_bias": ""}
_OUTSIDE: Table = {
    "transformer.wte.weight": "vocab hidden",
    "transformer.wpe.weight": "position hidden",
    "transformer.ln_f.weight": "|hidden|",
    "transformer.ln_f.bias": "hidden",
    "lm_head.weight": "vocab hidden",
}


def _sizes(config: Config, layer: int | None = None) -> dict[str, Any]:
    hidden, heads = config["n_embd"], config["n_head"]
    return {
        "kv_head": heads,
        "group": 1,
        "qk": hidden // heads,
        "v": hidden // heads,
        "hidden": hidden,
        "neuron": config["n_inner"] or 4 * hidden,
        "vocab": config["vocab_size"],
        "position": config["n_positions"],
        "one": 1,
    }


def _table(config: Config, layer: int) -> Table:
    return {**_LAYER, **_MASK}


def _constraints(config: Config, layer: int) -> tuple[Constraint, ...]:
    return decoder.LAYER_NORM


GPT2 = Family(
    name="gpt2",
    sizes=_sizes,
    table=_table,
    outside=lambda config: _OUTSIDE,
    embedding="transformer.wte",
    optional=decoder.optional,
    buffers=frozenset(_MASK),
    constraints=_constraints,
    defaults={"tie_word_embeddings": True, "n_inner": None, "n_positions": 1024},
    aliases={
        "hidden_size": "n_embd",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
        "max_position_embeddings": "n_positions",
    },
    layer="transformer.h.{layer}.",
    base="transformer.",
    depth="n_layer",
)
