"""Model families: one table each. A family that is not here is refused by name."""

from collections.abc import Iterable

from scramble.errors import UnknownFamilyError
from scramble.families.cohere import COHERE
from scramble.families.deepseek import DEEPSEEK_V3
from scramble.families.falcon import FALCON
from scramble.families.family import Architecture, Config, Constraint, Family, Role
from scramble.families.gemma import GEMMA, GEMMA2, GEMMA3
from scramble.families.glm import GLM, GLM4
from scramble.families.gpt2 import GPT2
from scramble.families.gpt_neox import GPT_NEOX
from scramble.families.gpt_oss import GPT_OSS
from scramble.families.granite import GRANITE
from scramble.families.llama import LLAMA
from scramble.families.mistral import MISTRAL
from scramble.families.mixture import MIXTRAL, QWEN2_MOE, QWEN3_MOE
from scramble.families.olmo import OLMO, OLMO2
from scramble.families.opt import OPT
from scramble.families.phi import PHI
from scramble.families.phi3 import PHI3
from scramble.families.qwen2 import QWEN2
from scramble.families.qwen3 import QWEN3
from scramble.families.smollm3 import SMOLLM3
from scramble.families.stablelm import STABLELM
from scramble.families.starcoder2 import STARCODER2

__all__ = ["FAMILIES", "Architecture", "Constraint", "Family", "Role", "architecture"]

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
