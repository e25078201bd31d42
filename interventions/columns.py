"""The columns of the tables of experiments (see `scramble.columns`)."""

from __future__ import annotations

from collections.abc import Mapping

from scramble.columns import LEVELS, Columns, columns
from scramble.columns import TABLES as MEASURES
from scramble.runs.columns import TABLES as RUNS

_PLAN = columns("""
arm | | name of the arm
seed | | seed of the run
status | | finished, running, interrupted, failed, missing or damaged
steps | steps | updates that the recipe asks for
rollouts | completions | completions that training samples
seconds | s | what the run took, or what finished ones took
disk_gb | GB | of the checkpoints that it keeps
run | | the run's folder
""")
_EXPECTED = columns("""
arm | | name of the scrambled arm
contrast | | the arms of the pair
treatment | | what acts on the weights: the names of symmetries, untreated, or outside the layers
n | weights | how many there are
density_a | fraction | of stored weights that the first run is expected to change, updates being noise of AdamW's size
density_b | fraction | the same of the second run
expected_chance | fraction | Jaccard overlap if each run's changes were spread evenly over each tensor
expected_jaccard | fraction | Jaccard overlap of two runs as stored, if updates are noise of AdamW's size that bf16 rounds
""")
_CONTRAST = columns("""
arm | | the scrambled arm that is contrasted with the base arm
contrast | | the arms of the pairs
treatment | | what acted on the weights: the names of symmetries, untreated, or outside the layers
above_chance_errors | | (weights that both runs changed - those expected by chance) over its standard error, weights taken as independent
placebos | | number of distinct wrong elements of the scramble's groups that were compared
placebo_jaccard | fraction | Jaccard where the scramble was undone by a wrong element, mean over them
placebo_jaccard_least | fraction | the least over the wrong elements
placebo_jaccard_most | fraction | the most over the wrong elements
placebo_rounding_only | fraction | rounding_only under wrong elements, mean
placebo_rounding_only_least | fraction | the least over the wrong elements
placebo_rounding_only_most | fraction | the most over the wrong elements
placebo_update_cosine | cosine | update_cosine under wrong elements, mean
placebo_update_cosine_least | cosine | the least over the wrong elements
placebo_update_cosine_most | cosine | the most over the wrong elements
placebo_update_rank_correlation | correlation | update_rank_correlation under wrong elements, mean
placebo_update_rank_correlation_least | correlation | the least over the wrong elements
placebo_update_rank_correlation_most | correlation | the most over the wrong elements
""")
_PAIRS = columns("""
arm_a | | arm of the first run
arm_b | | arm of the second run
seed_a | | seed of the first run
seed_b | | seed of the second run
""")
_REGIME = columns("""
arm | | arm of the run
seed | | seed of the run
algorithm | | name of the algorithm
optimizer | | name of the optimizer
learning_rate | | learning rate of the optimizer
updates | steps | updates that were made
pass@1_before | fraction | pass@1 on held-out prompts before training
pass@1_before_low | fraction | lower end of its 95 % interval
pass@1_before_high | fraction | upper end of its 95 % interval
pass@1_after | fraction | pass@1 on held-out prompts after training
pass@1_after_low | fraction | lower end of its 95 % interval
pass@1_after_high | fraction | upper end of its 95 % interval
gain | fraction | pass@1 after minus before, prompt by prompt
gain_low | fraction | lower end of its 95 % interval
gain_high | fraction | upper end of its 95 % interval
reward_first | | mean reward of the first quarter of the steps
reward_last | | mean reward of the last quarter of the steps
kl_to_start | nats a token | KL(start || policy) on sampled completions after the last step
density | fraction | changed bf16 weights over all weights
sparsity | fraction | 1 - density | paper 2.1
update_norm | | Frobenius norm of the update of all weights, tied ones once
""")
_VERDICT = columns("""
verdict | | a sentence of the report
""")

_OVERLAP = {name: one for name, one in MEASURES["overlap"].items() if name not in LEVELS}
_PLACE = {name: LEVELS[name] for name in ("tower", "layer", "module")}

TABLES: Mapping[str, Columns] = {
    **RUNS,
    "experiment plan": _PLAN,
    "experiment plan --contrasts": _EXPECTED,
    "experiment run": _PLAN,
    "experiment contrast": _OVERLAP | _CONTRAST,
    "experiment report": _VERDICT,
    "pairs.csv": _PLACE | _OVERLAP | _CONTRAST | _PAIRS,
    "by_layer.csv": _PLACE | _OVERLAP | _CONTRAST,
    "by_treatment.csv": _OVERLAP | _CONTRAST,
    "regime.csv": _REGIME,
}
