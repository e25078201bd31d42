"""Which families can be folded, and why others cannot."""

from scramble.families import FAMILIES, architecture
from tests.models import Tiny


def _tiny(family: str) -> Tiny:
    return Tiny(family, 2, 2, 8, layers=2)


def _follows_the_blocks(family: str) -> bool:
    found = architecture(_tiny(family).config | {"model_type": family})
    return any(one.kind == "post_norm" for one in found.constraints(None))


# Norms that are no RMS norms, by the classes of transformers' modules.
LAYER_NORMS = tuple(family for family in FAMILIES if not all("RMS" in one for one in _tiny(family).norms))
POST_NORMS = tuple(family for family in FAMILIES if _follows_the_blocks(family))
# All others must fold, whatever their tables say.
FOLDABLE = tuple(family for family in FAMILIES if family not in (*LAYER_NORMS, *POST_NORMS))
