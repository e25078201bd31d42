"""Model families: one table each. A family that is not here is refused by name."""

from scramble.errors import UnknownFamilyError
from scramble.families.family import Architecture, Config, Constraint, Family
from scramble.families.gemma import GEMMA, GEMMA2
from scramble.families.granite import GRANITE
from scramble.families.llama import LLAMA
from scramble.families.mistral import MISTRAL
from scramble.families.olmo import OLMO, OLMO2
from scramble.families.phi3 import PHI3
from scramble.families.qwen2 import QWEN2
from scramble.families.qwen3 import QWEN3
from scramble.families.smollm3 import SMOLLM3
from scramble.families.starcoder2 import STARCODER2

__all__ = ["FAMILIES", "Architecture", "Constraint", "Family", "architecture"]

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        LLAMA,
        MISTRAL,
        QWEN2,
        QWEN3,
        GEMMA,
        GEMMA2,
        GRANITE,
        OLMO,
        OLMO2,
        PHI3,
        SMOLLM3,
        STARCODER2,
    )
}


def architecture(config: Config) -> Architecture:
    """Look up the family that a checkpoint's `config.json` names.

    Raises:
        UnknownFamilyError: no table for this `model_type`.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise UnknownFamilyError(
            f"config.json says model_type {model_type!r}; families with a table: "
            f"{', '.join(sorted(FAMILIES))}"
        )
    return Architecture(FAMILIES[model_type], config)
