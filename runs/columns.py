"""The columns of the tables about runs (see `scramble.columns`)."""

from __future__ import annotations

from collections.abc import Mapping

from scramble.columns import TABLES as MEASURES
from scramble.columns import Columns, columns

_RUN = columns("""
run | | the run's folder, or its name
status | | finished, running, interrupted, failed, missing or damaged
algorithm | | name of the algorithm
task | | name of the task, or of its data set
seed | | seed of the run
step | steps | rows of metrics that there are
steps | steps | updates that the recipe asks for; of a finished run, that were made
problem | | why the run failed, or what is damaged
""")
_LEARNED = columns("""
reward_first | | mean reward of the first step that sampled (compare: of the first quarter)
reward_last | | mean reward of the last step that sampled (compare: of the last quarter)
score_first | fraction | mean score of the samples, penalties left out: first quarter of the steps that sampled
score_last | fraction | the same of the last quarter
loss_first | | loss of the first step (compare: first quarter), where nothing is sampled
loss_last | | loss of the last step (compare: last quarter)
pass@{k}_before | fraction | pass@k on held-out prompts before training | Chen et al. 2021
pass@{k}_after | fraction | pass@k on held-out prompts after the last step
seconds | s | that the training took
""")
_SUMMARY = columns("""
end_hash | | SHA-256 of the last checkpoint
""")
_COMPARED = columns("""
name | | the recipe's name, with the seed or the folder where that is not enough
optimizer | | adamw, sgd or muon
learning_rate | | learning rate of the optimizer
mask | | kind of the mask, where only the weights of a mask are trained
adapter | | kind of the adapter, where one is trained
start | | first digits of the hash of the start
collapsed | steps | step at which training collapsed
held_out | | first digits of the hash of the held-out prompts
kl_to_start | nats a token | KL(start || policy) on sampled completions after the last step
end | | dtype of the last checkpoint: fp32 or bf16
update_norm | | Frobenius norm of the update of all weights, tied ones once
sparsity | fraction | weights whose stored bf16 bits did not change, over all weights; 1 - density | paper 2.1
sparsity_matrices | fraction | the same among the matrices that spectra measures
nss | fraction | normalised shift of the singular values of these matrices | paper 4.1
angle_max | degrees | largest principal angle of these matrices, on either side
principal | fraction | changed weights that are principal, over changed weights | paper 4.2
principal_chance | fraction | the same, if each matrix's changes were spread evenly
principal_magnitude_matched | fraction | the same, if each magnitude key kept its change rate
""")
_ORGANISM = columns("""
out | | the folder that was written
family | | model_type of the organism
steps | steps | updates of the pre-training
seed | | of the first weights and of the order of the texts
weights | | how many weights the organism has
hash | | SHA-256 of its weights and config
loss | nats a token | loss of the last step
held_out | fraction | right answers on held-out prompts at temperature 1 after the pre-training
seconds | s | that the pre-training took
""")
_KEYED = columns("""
key | | name of an entry of run.json, the recipe or the last metrics
value | | its value
""")

TABLES: Mapping[str, Columns] = {
    **MEASURES,
    "run": _RUN | _LEARNED | _SUMMARY,
    "organism": _ORGANISM,
    "runs list": _RUN | _LEARNED,
    "runs show": _KEYED,
    "runs compare": _RUN | _LEARNED | _COMPARED,
}
