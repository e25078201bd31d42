"""The tables of an experiment as the published pattern would make them, without any run."""

from __future__ import annotations

import numpy as np
import pandas as pd

from scramble.interventions.contrast import METRICS, PLACEBO_METRICS, Contrasts

TREATED = (5, 9)


def synthetic(collapse: bool) -> Contrasts:
    """What the published pattern looks like in the tables, or what its absence does."""
    rows = []
    for contrast in ("base x base", "base x scrambled", "scrambled x scrambled"):
        for frame in ("raw", "aligned"):
            for module in ("v_proj", "o_proj", "up_proj"):
                for layer in range(12):
                    treated = layer in TREATED and module != "up_proj"
                    falls = collapse and treated and frame == "raw" and contrast == "base x scrambled"
                    row = {name: 0.12 if falls or name == "chance" else 0.46 for name in METRICS}
                    row |= {
                        "arm": "scrambled",
                        "contrast": contrast,
                        "frame": frame,
                        "module": module,
                        "layer": layer,
                        "pairs": 1,
                    }
                    row |= {"treatment": "vo-rotation" if treated else "untreated", "same_seed": False}
                    placed = treated and frame == "aligned" and contrast == "base x scrambled"
                    row |= {"placebos": 19 if placed else 0}
                    row |= {
                        f"placebo_{name}{end}": value if placed else np.nan
                        for name in PLACEBO_METRICS
                        for end, value in (("", 0.44), ("_least", 0.42), ("_most", 0.455))
                    }
                    rows.append(
                        row | {"jaccard_low": np.nan, "jaccard_high": np.nan, "density_a": 0.2, "n": 9}
                    )
    table = pd.DataFrame(rows)
    placebos = [name for name in table if name.startswith("placebo")]
    numbers = ["pairs", *METRICS, "jaccard_low", "jaccard_high", *placebos]
    by_treatment = (
        table.groupby(["arm", "contrast", "same_seed", "frame", "treatment"])[numbers].mean().reset_index()
    )
    regime = pd.DataFrame([run(arm, seed) for arm in ("base", "scrambled") for seed in (1, 2)])
    return Contrasts(pairs=table, by_layer=table, by_treatment=by_treatment, regime=regime)


def run(arm: str, seed: int) -> dict[str, object]:
    """A run that learned."""
    values = {"arm": arm, "seed": seed, "algorithm": "dapo", "optimizer": "adamw", "learning_rate": 1e-5}
    values |= {"updates": 10, "gain": 0.3, "gain_low": 0.2, "gain_high": 0.4, "kl_to_start": 1.2}
    for name, value in (("before", 0.24), ("after", 0.54)):
        values |= {f"pass@1_{name}": value, f"pass@1_{name}_low": value - 0.1}
        values |= {f"pass@1_{name}_high": value + 0.1}
    values |= {"reward_first": 0.3, "reward_last": 0.6, "density": 0.06, "sparsity": 0.94, "update_norm": 0.6}
    return values
