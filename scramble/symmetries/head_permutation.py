"""Head permutation: KV heads are permuted, each with its query heads; query heads inside a group.

Every tensor that carries `kv_head` moves along, so q, k, v and the output projection cannot disagree.
(arXiv 2511.08567, section 4.3 and appendix D; the paper permutes KV heads only.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from scramble.architecture import Architecture
from scramble.symmetries.draws import generator, permutation
from scramble.symmetries.elements import Element, Permutation
from scramble.symmetries.symmetry import Symmetry


class HeadPermutation(Symmetry):
    """Permutations drawn uniformly from those that are not the identity (with three heads, one in six is).

    Attributes:
        kv_heads: permute KV heads.
        groups: permute the query heads of each KV head.
    """

    kv_heads: bool = True
    groups: bool = True

    name: ClassVar[str] = "head-permutation"
    axes: ClassVar[tuple[str, ...]] = ("kv_head", "group")
    forbidding: ClassVar[Mapping[str, str]] = {
        "alibi": "each head's slope is a constant of the architecture and cannot move"
    }

    def group(self, architecture: Architecture, layer: int | None) -> str:
        sizes = architecture.sizes_of(layer)
        factors = [f"S({sizes['group']})^{sizes['kv_head']}"] * (self.groups and sizes["group"] > 1)
        factors += [f"S({sizes['kv_head']})"] * (self.kv_heads and sizes["kv_head"] > 1)
        return " x ".join(factors) + ", none the identity"

    def trivial(self, architecture: Architecture, layer: int | None) -> str | None:
        sizes = architecture.sizes_of(layer)
        if (self.kv_heads and sizes["kv_head"] > 1) or (self.groups and sizes["group"] > 1):
            return None
        return f"nothing to permute: {sizes['kv_head']} KV head(s) with {sizes['group']} query head(s) each"

    def draw(self, architecture: Architecture, seed: int, layer: int | None) -> tuple[Element, ...]:
        sizes = architecture.sizes_of(layer)
        elements: list[Element] = []
        if self.groups and sizes["group"] > 1:
            rows = [
                permutation(sizes["group"], generator(seed, self.name, layer, "group", head))
                for head in range(sizes["kv_head"])
            ]
            elements.append(Permutation("group", ("kv_head",), np.stack(rows)))
        if self.kv_heads and sizes["kv_head"] > 1:
            rng = generator(seed, self.name, layer, "kv_head")
            elements.append(Permutation("kv_head", (), permutation(sizes["kv_head"], rng)))
        return tuple(elements)
