"""Model families: one table each. A family that is not here is refused by name."""

from collections.abc import Iterable

from scramble.architecture.family import Architecture, Config, Family
from scramble.errors import UnknownFamilyError
from scramble.families.layer_norm.cohere import COHERE
from scramble.families.layer_norm.falcon import FALCON
from scramble.families.layer_norm.gpt2 import GPT2
from scramble.families.layer_norm.gpt_neox import GPT_NEOX
from scramble.families.layer_norm.olmo import OLMO
from scramble.families.layer_norm.opt import OPT
from scramble.families.layer_norm.phi import PHI
from scramble.families.layer_norm.stablelm import STABLELM
from scramble.families.layer_norm.starcoder2 import STARCODER2
from scramble.families.mixture.deepseek import DEEPSEEK_V3
from scramble.families.mixture.gpt_oss import GPT_OSS
from scramble.families.mixture.mixtral import MIXTRAL, QWEN2_MOE, QWEN3_MOE
from scramble.families.rms_norm.gemma import GEMMA, GEMMA2, GEMMA3
from scramble.families.rms_norm.glm import GLM, GLM4
from scramble.families.rms_norm.granite import GRANITE
from scramble.families.rms_norm.llama import LLAMA
from scramble.families.rms_norm.mistral import MISTRAL
from scramble.families.rms_norm.olmo2 import OLMO2
from scramble.families.rms_norm.phi3 import PHI3
from scramble.families.rms_norm.qwen2 import QWEN2
from scramble.families.rms_norm.qwen3 import QWEN3
from scramble.families.rms_norm.smollm3 import SMOLLM3

__all__ = ["FAMILIES", "architecture"]

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        LLAMA,
        MISTRAL,
        MIXTRAL,
        QWEN2,
        QWEN2_MOE,
        QWEN3,
        QWEN3_MOE,
        GEMMA,
        GEMMA2,
        GEMMA3,
        PHI,
        PHI3,
        GPT2,
        GPT_NEOX,
        GPT_OSS,
        OLMO,
        OLMO2,
        STABLELM,
        STARCODER2,
        COHERE,
        GRANITE,
        SMOLLM3,
        GLM,
        GLM4,
        DEEPSEEK_V3,
        FALCON,
        OPT,
    )
}


def architecture(config: Config, names: Iterable[str] = ()) -> Architecture:
    """Look up the family that a checkpoint's `config.json` names; `names` are its tensors'.

    Raises:
        UnknownFamilyError: no table for this `model_type`.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise UnknownFamilyError(
            f"config.json says model_type {model_type!r}; families with a table: "
            f"{', '.join(sorted(FAMILIES))}"
        )
    family, held = FAMILIES[model_type], list(names)
    bare = bool(family.base and held) and not any(name.startswith(family.base) for name in held)
    # A checkpoint may hold some layers in the usual form and one in another: then its tensors do not fit.
    chosen = tuple(
        (usual, other)
        for usual, other in family.alternatives
        if any(name.endswith(f".{local}") for name in held for local in other.keys() - usual.keys())
    )
    return Architecture(family, config, bare, chosen)
