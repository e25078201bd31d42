"""Top-64 reconstruction and its principal mask against a full float64 SVD, at 2560 x 2560.

Both sides are timed in one run and alternate; the fastest of the rounds counts. Weights are bf16 values: 40
directions of decaying strength on top of a noise bulk whose edge holds sigma_64, so that the gap behind it is
small. The reconstruction counts with its certificate. The masks, at alpha 0.05, 0.3 and 0.5, must be those of
the full SVD, and every certificate must be given.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from scramble.checkpoints.storage import bf16_to_float32, float32_to_bf16
from scramble.measures.geometry.masks import count_of, largest, principal_masks
from scramble.measures.geometry.reconstruction import fast_factors
from scramble.measures.geometry.subspaces import decompose

ALPHAS = (0.05, 0.3, 0.5)


def weight(side: int, seed: int, strength: float) -> np.ndarray:
    """Noise of standard deviation 0.02 with 40 directions of decaying strength, as bf16 values."""
    rng = np.random.default_rng(seed)
    strong = rng.standard_normal((side, 40)) * np.linspace(strength, strength / 6, 40)
    values = 0.02 * rng.standard_normal((side, side)) + strong @ rng.standard_normal((40, side))
    return bf16_to_float32(float32_to_bf16(values.astype(np.float32))).astype(np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--side", type=int, default=2560)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3, help="weights; the fastest of so many counts")
    arguments = parser.parse_args()
    sides = ("full SVD", "its three masks", "top-k reconstruction", "with its three masks")
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    identical = certified = 0
    k = arguments.rank
    for seed in range(arguments.rounds):
        values = weight(arguments.side, seed, strength=(0.06, 0.01, 0.003)[seed % 3])
        began = time.perf_counter()
        found = decompose(values)
        seconds["full SVD"].append(time.perf_counter() - began)
        began = time.perf_counter()
        full = np.abs((found.left[:, :k] * found.values[:k]) @ found.right[:k])
        expected = [largest(full, count_of(alpha, full.size)) for alpha in ALPHAS]
        seconds["its three masks"].append(time.perf_counter() - began)
        began = time.perf_counter()
        factors = fast_factors(values, k)
        certified += factors is not None
        if factors is not None:
            factors.left @ factors.right
        seconds["top-k reconstruction"].append(time.perf_counter() - began)
        began = time.perf_counter()
        masks = principal_masks(values, k, ALPHAS)
        seconds["with its three masks"].append(time.perf_counter() - began)
        identical += all(map(np.array_equal, masks, expected))
    best = {name: min(times) for name, times in seconds.items()}
    for name, time_ in best.items():
        print(f"{name:22} {time_:6.2f} s   (all: {', '.join(f'{one:.2f}' for one in seconds[name])})")
    ratio = best["full SVD"] / best["top-k reconstruction"]
    print(f"top-{k} reconstruction: {ratio:.1f} x faster than a full SVD (at least 5)")
    ratio = (best["full SVD"] + best["its three masks"]) / best["with its three masks"]
    print(f"with three masks on both sides: {ratio:.1f} x faster")
    print(f"identical masks: {identical} of {arguments.rounds}; certified: {certified} of {arguments.rounds}")


if __name__ == "__main__":
    main()
