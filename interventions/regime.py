"""The regime of a run: what it learned, at which cost in KL, and how far its weights went.

What an experiment finds holds in its regime: where nothing is learned, overlaps are made of other parts than
where much is. So every report says first in which regime its figures were obtained.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from scramble.interventions.experiment import PlannedRun
from scramble.runrecord import Evaluation
from scramble.runs.records.summary import quarters


def regime_of(run: PlannedRun, name: str, counts: pd.DataFrame) -> dict[str, Any]:
    """What a finished run learned and changed. What it did not measure is None.

    `pass@1` on held-out prompts before and after training, and `gain`, each with its 95 % interval; mean
    `reward` of the first and the last quarter of the steps; `kl_to_start`, KL(start || policy) in nats a
    token after the last step; `density` and `sparsity`, of stored bf16 weights;
    `update_norm`, `||dW||_F` of all weights, tied ones once.

    Args:
        name: of the run in the counts.
        counts: additive counts of pairs (`count_pairs`), one of which has the run in it.
    """
    folder, recipe = run.done, run.recipe
    record, metrics = folder.finished, folder.metrics
    raw = counts[counts["frame"] == "raw"]
    side = "a" if (raw["run_a"] == name).any() else "b"
    own = raw[raw[f"run_{side}"] == name].drop_duplicates("tensor")
    density = float(own[f"changed_{side}"].sum() / own["n"].sum())
    kl = [row["kl_to_start"] for row in metrics if "kl_to_start" in row]
    return {
        "arm": run.arm,
        "seed": run.seed,
        "algorithm": recipe.algorithm.name,
        "optimizer": recipe.optimizer.name,
        "learning_rate": recipe.optimizer.learning_rate,
        "updates": record.end.step,
        **_learned(record.evaluation, record.end.step),
        **quarters(metrics, "reward"),
        "kl_to_start": kl[-1] if kl else None,
        "density": density,
        "sparsity": 1 - density,
        "update_norm": float(own[f"square_{side}"].sum()) ** 0.5,
    }


def _learned(evaluation: Evaluation | None, last: int) -> dict[str, float | None]:
    """pass@1 before and after, and the gain, with intervals."""
    found: dict[str, float | None] = {}
    rows = [row for row in (evaluation.rows if evaluation else []) if row.k == 1]
    gains = [row for row in (evaluation.gain if evaluation else []) if row.k == 1]
    for label, chosen in (
        ("pass@1_before", [row for row in rows if row.step == 0]),
        ("pass@1_after", [row for row in rows if row.step == last]),
        ("gain", gains),
    ):
        rate, low, high = (chosen[0].rate, chosen[0].low, chosen[0].high) if chosen else (None, None, None)
        found |= {label: rate, f"{label}_low": low, f"{label}_high": high}
    return found


def described(regime: pd.DataFrame) -> list[str]:
    """Sentences: whether the runs learned, and how far they went."""
    if regime.empty:
        return []
    lines = [
        f"{len(regime)} runs of {_either(regime, 'updates')} updates with {_either(regime, 'algorithm')} and "
        f"{_either(regime, 'optimizer')} at a learning rate of {_either(regime, 'learning_rate')}: they "
        f"changed {_span(regime['density'])} of the stored bf16 weights "
        f"(sparsity {_span(regime['sparsity'])})"
        + (
            f", at a KL of {_span(regime['kl_to_start'])} nats a token from the start."
            if regime["kl_to_start"].notna().any()
            else "; KL from the start was not measured."
        )
    ]
    if regime["gain"].isna().any():
        lines.append(
            "Held-out prompts were not evaluated in every run, so whether these runs learned is not known: "
            "give the recipe a section 'evaluation'."
        )
    else:
        learned = regime["gain_low"] > 0
        lines.append(
            f"Held-out pass@1 was {_span(regime['pass@1_before'])} before training and "
            f"{_span(regime['pass@1_after'])} after it; "
            f"{int(learned.sum())} of {len(regime)} runs gained with a 95 % interval that excludes zero "
            f"(smallest gain {regime['gain'].min():.2f}, {_least_interval(regime)})."
        )
    lines.append("The following values hold in this regime; other regimes give other answers.")
    return lines


def _least_interval(regime: pd.DataFrame) -> str:
    """The interval of the run that gained least."""
    row = regime.loc[regime["gain"].idxmin()]
    if pd.isna(row["gain_low"]):
        return "no interval"
    return f"{row['gain_low']:.2f} to {row['gain_high']:.2f}"


def _either(table: pd.DataFrame, name: str) -> str:
    return " or ".join(
        f"{value:g}" if isinstance(value, float) else str(value) for value in dict.fromkeys(table[name])
    )


def _span(values: pd.Series) -> str:
    low, high = f"{values.min():.3g}", f"{values.max():.3g}"
    return low if low == high else f"{low} to {high}"
