"""Gemma 1, 2 and 3 (text): gains of `1 + weight`; 2 adds norms after each block, 3 on q and k."""

from scramble.architecture.family import Config, Constraint, Family, Table
from scramble.families.blocks import decoder

_FEEDFORWARD_NORMS: Table = {
    "pre_feedforward_layernorm.weight": "|hidden|",
    "post_feedforward_layernorm.weight": "|hidden|",
}


def _table(config: Config, layer: int) -> Table:
    table = {**decoder.ATTENTION, **decoder.GATED_MLP, **decoder.PRE_NORMS, **decoder.ROTARY_BUFFER}
    if config["attention_bias"]:
        table |= {**decoder.QKV_BIAS, **decoder.O_BIAS}
    return table


def _table2(config: Config, layer: int) -> Table:
    return {**_table(config, layer), **_FEEDFORWARD_NORMS}


def _table3(config: Config, layer: int) -> Table:
    return {**_table2(config, layer), **decoder.QK_NORM}


def _constraints2(config: Config, layer: int) -> tuple[Constraint, ...]:
    return (*decoder.rope(config, layer), *decoder.POST_NORM)


def _constraints3(config: Config, layer: int) -> tuple[Constraint, ...]:
    return (*_constraints2(config, layer), *decoder.QK_GAIN)


_DEFAULTS = {**decoder.DEFAULTS, "tie_word_embeddings": True, "head_dim": 256, "attention_bias": False}
GEMMA = Family(
    name="gemma",
    sizes=decoder.sizes,
    table=_table,
    outside=decoder.outside,
    optional=decoder.optional,
    buffers=decoder.BUFFERS,
    constraints=decoder.rope,
    defaults={**_DEFAULTS, "num_key_value_heads": 16},
    folds=decoder.FOLDS,
    offset=True,
)
GEMMA2 = Family(
    name="gemma2",
    sizes=decoder.sizes,
    table=_table2,
    outside=decoder.outside,
    optional=decoder.optional,
    buffers=decoder.BUFFERS,
    constraints=_constraints2,
    defaults={**_DEFAULTS, "num_key_value_heads": 4},
)
GEMMA3 = Family(
    name="gemma3_text",
    sizes=decoder.sizes,
    table=_table3,
    outside=decoder.outside,
    optional=decoder.optional,
    buffers=decoder.BUFFERS,
    constraints=_constraints3,
    defaults={**_DEFAULTS, "num_key_value_heads": 4},
)
