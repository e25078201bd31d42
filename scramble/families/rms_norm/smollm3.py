"""SmolLM 3: Llama's layout, with layers that have no rotary positions."""

from scramble.architecture.family import Config, Constraint, Family
from scramble.families.blocks import decoder
from scramble.families.rms_norm.llama import LLAMA


def _constraints(config: Config, layer: int) -> tuple[Constraint, ...]:
    """`no_rope_layers[i] = 1` means that positions are *on* in layer i; by default every fourth has none."""
    flags = config["no_rope_layers"]
    rotary = (layer + 1) % config["no_rope_layer_interval"] != 0 if flags is None else flags[layer]
    return decoder.rope(config, layer) if rotary else ()


SMOLLM3 = Family(
    name="smollm3",
    sizes=decoder.sizes,
    table=LLAMA.table,
    outside=decoder.outside,
    optional=decoder.optional,
    buffers=decoder.BUFFERS,
    constraints=_constraints,
    defaults={
        **decoder.DEFAULTS,
        "tie_word_embeddings": True,
        "num_key_value_heads": 4,
        "attention_bias": False,
        "mlp_bias": False,
        "no_rope_layers": None,
        "no_rope_layer_interval": 4,
    },
    folds=decoder.FOLDS,
)
