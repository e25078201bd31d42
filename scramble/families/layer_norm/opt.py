"""OPT: LayerNorms, a plain MLP, learned positions; the smallest sizes project their embeddings."""

from typing import Any

from scramble.architecture.family import Config, Constraint, Family, Table
from scramble.families.blocks import decoder

_LAYER: Table = {
    "self_attn.q_proj.weight": "(kv_head group qk) hidden",
    "self_attn.k_proj.weight": "(kv_head qk*) hidden",
    "self_attn.v_proj.weight": "(kv_head v) hidden",
    "self_attn.out_proj.weight": "hidden (kv_head group v*)",
    "fc1.weight": "neuron~ hidden",
    "fc2.weight": "hidden neuron~",
}
_BIAS: Table = {
    **decoder.QKV_BIAS,
    "self_attn.out_proj.bias": "hidden",
    "fc1.bias": "neuron~",
    "fc2.bias": "hidden",
}
_NORMS = ("self_attn_layer_norm", "final_layer_norm")
_DECODER = "model.decoder."


def _sizes(config: Config, layer: int | None = None) -> dict[str, Any]:
    named = {**config, "intermediate_size": config["ffn_dim"], "num_key_value_heads": None, "head_dim": None}
    return decoder.sizes(named) | {
        "embedding": config["word_embed_proj_dim"] or config["hidden_size"],
        "position": config["max_position_embeddings"] + 2,
    }


def _affine(config: Config, names: tuple[str, ...]) -> Table:
    if not config["layer_norm_elementwise_affine"]:
        return {}
    return {f"{name}.weight": "|hidden|" for name in names} | {f"{name}.bias": "hidden" for name in names}


def _table(config: Config, layer: int) -> Table:
    bias = _BIAS if config["enable_bias"] else {}
    return {**_LAYER, **bias, **_affine(config, _NORMS)}


def _outside(config: Config) -> Table:
    projected = _sizes(config)["embedding"] != config["hidden_size"]
    width = "embedding" if projected else "hidden"
    table = {
        f"{_DECODER}embed_tokens.weight": f"vocab {width}",
        f"{_DECODER}embed_positions.weight": "position hidden",
        "lm_head.weight": f"vocab {width}",
    }
    if projected:
        table |= {
            f"{_DECODER}project_in.weight": "hidden embedding",
            f"{_DECODER}project_out.weight": "embedding hidden",
        }
    if config["do_layer_norm_before"] and not config["_remove_final_layer_norm"]:
        table |= _affine(config, (f"{_DECODER}final_layer_norm",))
    return table


def _constraints(config: Config, layer: int) -> tuple[Constraint, ...]:
    return decoder.LAYER_NORM


OPT = Family(
    name="opt",
    sizes=_sizes,
    table=_table,
    outside=_outside,
    embedding=f"{_DECODER}embed_tokens",
    optional=decoder.optional,
    constraints=_constraints,
    defaults={
        "tie_word_embeddings": True,
        "word_embed_proj_dim": None,
        "layer_norm_elementwise_affine": True,
        "enable_bias": True,
        "do_layer_norm_before": True,
        "_remove_final_layer_norm": False,
    },
    layer="model.decoder.layers.{layer}.",
    base="model.",
    first_position=2,
)
