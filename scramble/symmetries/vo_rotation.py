"""V/O rotation: values are turned inside each head, and the output projection turns them back.

Attention mixes value vectors with scalar weights, so an orthogonal `R` on the `v` axis passes through it:
`W_O R^T  sum_t a_t (R W_V x_t + R b_V) = W_O sum_t a_t (W_V x_t + b_V)`. The value bias turns too.
(arXiv 2511.08567, section 4.3 and appendix D.)
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from jaxtyping import Float64

from scramble.axes import Sizes
from scramble.symmetries.draws import generator
from scramble.symmetries.elements import Element, Rotation
from scramble.symmetries.symmetry import Symmetry


class VoRotation(Symmetry):
    """A Haar-random orthogonal matrix on the value axis of each KV head.

    Attributes:
        shared: one matrix for all KV heads of a layer, as in the paper; otherwise each head draws its own.
    """

    shared: bool = False

    name: ClassVar[str] = "vo-rotation"
    axes: ClassVar[tuple[str, ...]] = ("v",)
    forbidding: ClassVar[Mapping[str, str]] = {
        "gate": "an elementwise gate does not commute with a rotation",
        "gain": "a gain for each channel does not commute with a rotation",
        "clamp": "an elementwise clamp does not commute with a rotation",
        "layer_norm": "subtracting the mean does not commute with a rotation",
    }

    def group(self, sizes: Sizes) -> str:
        return f"O({sizes['v']})" if self.shared else f"O({sizes['v']})^{sizes['kv_head']}"

    def draw(self, sizes: Sizes, seed: int, layer: int) -> tuple[Element, ...]:
        heads = [0] * sizes["kv_head"] if self.shared else range(sizes["kv_head"])
        matrices = [haar(sizes["v"], generator(seed, self.name, layer, head)) for head in heads]
        return (Rotation("v", ("kv_head",), np.stack(matrices)),)


def haar(n: int, rng: np.random.Generator) -> Float64[np.ndarray, "n n"]:
    """A matrix from the Haar measure on O(n): QR with the signs of R's diagonal (Mezzadri 2007)."""
    q, r = np.linalg.qr(rng.standard_normal((n, n)))
    orthogonal: Float64[np.ndarray, "n n"] = q * np.sign(np.diagonal(r))
    return orthogonal
