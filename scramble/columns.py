"""The columns of every table, once: name, unit, definition, source.

`--help`, the reference page and `df.attrs["columns"]` are made of these. A line of a table here is
`name | unit | definition | source`; sources are sections of arXiv 2511.08567 ("paper") or what they name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from scramble.errors import SelectionError


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: as printed; `{k}` stands for a number.
        unit: empty for names, flags and labels.
        definition: what is divided by what.
        source: where the definition is from; empty where it is ours.
    """

    name: str
    unit: str
    definition: str
    source: str = ""


Columns = dict[str, Column]


def columns(text: str, *shared: Columns) -> Columns:
    """Columns from lines `name | unit | definition | source`, behind the shared ones.

    Raises:
        ValueError: a line without three or four parts, or a name twice.
    """
    found = {name: one for part in shared for name, one in part.items()}
    own: Columns = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        parts = [part.strip() for part in re.split(r"(?<=\s)\|(?=\s)", line)]
        if len(parts) not in (3, 4) or parts[0] in own:
            raise ValueError(f"columns: '{line}'")
        own[parts[0]] = Column(*parts)
    return found | own


LEVELS = columns("""
level | | what the row sums over: model, tower, module, layer, layer-module or tensor
tower | | the stack of layers, where a checkpoint has several (vision tower, encoder)
layer | | number of the layer; empty outside the layers and where the row sums over layers
module | | name of the module, as q_proj
tensor | | name of the stored tensor
""")
_PAIR = columns("""
run_a | | END of the first run
run_b | | END of the second run
same_seed | | whether the runs have one seed, and so saw the same prompts; empty where a seed is not known
frame | | raw: as stored; aligned: scrambles undone before comparing; placebo-N: undone by a wrong element
n | weights | weights that the row sums over
""")
_OVERLAP = columns("""
density_a | fraction | weights that the first run changed, over n | paper 2.1
density_b | fraction | weights that the second run changed, over n | paper 2.1
jaccard | fraction | weights that both runs changed, over those that any changed | paper 2.2
overlap_a | fraction | weights that both runs changed, over those that the first changed | paper 4.2
overlap_b | fraction | weights that both runs changed, over those that the second changed | paper 4.2
chance | fraction | Jaccard expected if each run's changes were spread evenly over each tensor
rounding_only | fraction | Jaccard expected if each weight drew an update of the run's own sizes, whatever the weight, and bf16 storage kept those above its rounding threshold; needs float32 ends
magnitude_matched | fraction | Jaccard expected if each run kept its own change rate for every magnitude key
row_column_matched | fraction | Jaccard expected from change rates by magnitude, row and column
jaccard_above_chance | fraction | (jaccard - chance) / (1 - chance)
jaccard_above_rounding_only | fraction | (jaccard - rounding_only) / (1 - rounding_only)
jaccard_above_magnitude_matched | fraction | (jaccard - magnitude_matched) / (1 - magnitude_matched)
jaccard_above_row_column_matched | fraction | (jaccard - row_column_matched) / (1 - row_column_matched)
phi | correlation | Pearson correlation of the two masks, (co)variances within tensors
update_cosine | cosine | dot product of the two updates over the product of their norms
update_rank_correlation | correlation | Spearman correlation of the sizes of the updates within tensors; needs float32 ends
sign_agreement | fraction | weights whose updates have one sign, over those with two updates that are not zero
non_finite | weights | values of either run's ends that are infinite or NaN; they have no update
""")
_PARTS = columns("""
above_chance | weights | weights that both runs changed, minus those expected by chance
rounding | weights | what rounding_only expects beyond chance
magnitude | weights | what magnitude_matched expects beyond rounding_only
row_column | weights | what row_column_matched expects beyond magnitude_matched
coordinate | weights | residual overlap: what no baseline explains
coordinate_low | weights | lower end of a 95 % interval, weights taken as independent given the fits
coordinate_high | weights | upper end of the same interval
rounding_share | fraction | rounding / above_chance, where parts can be read as fractions of it
magnitude_share | fraction | magnitude / above_chance
row_column_share | fraction | row_column / above_chance
coordinate_share | fraction | coordinate / above_chance
coordinate_share_low | fraction | lower end of its 95 % interval | Fieller 1954
coordinate_share_high | fraction | upper end of its 95 % interval | Fieller 1954
""")
_MEANS = columns("""
pairs | pairs | pairs of runs that the row is the mean of
jaccard_low | fraction | lower end of a 95 % interval of the mean, leaving out run by run; four runs or more
jaccard_high | fraction | upper end of the same interval
""")
_CHANGES = columns("""
n | weights | weights that the row sums over
changed | weights | weights whose stored bf16 bits differ (with --eta: that moved by more than this fraction of their size) | paper 2.1
sparsity | fraction | weights whose stored bf16 bits did not change, over n; 1 - density | paper 2.1
relative_update_norm | fraction | Frobenius norm of the update over that of the start
non_finite | weights | values of either end that are infinite or NaN
""")
_SPECTRA = columns("""
matrices | matrices | matrices that the row is about
rank | | of the compared singular subspaces, the largest
nss | fraction | normalised shift of the singular values, ||sigma(W+) - sigma(W0)|| / ||sigma(W0)|| | paper 4.1
angle_left_max | degrees | largest principal angle between the left singular subspaces | paper 4.1
angle_left_mean | degrees | mean over all principal angles on the left
angle_right_max | degrees | largest principal angle between the right singular subspaces | paper 4.1
angle_right_mean | degrees | mean over all principal angles on the right
angle_resolution | degrees | smallest angle that float64 arithmetic resolves, from the gap behind the subspace
wedin_bound | degrees | the tightest of Wedin's bounds on the angles; empty without a gap | Wedin 1972
update_spectral_norm | | largest spectral norm of an update
weyl | fraction | largest shift of a singular value over its bound | Weyl
hoffman_wielandt | fraction | norm of all shifts over its bound | Hoffman and Wielandt 1953
ky_fan | fraction | shift of the Ky Fan norm over its bound | Ky Fan
wedin | fraction | largest angle's sine over its bound | Wedin 1972
wedin_checked | matrices | matrices with a positive gap, for which Wedin's theorem holds
""")
_PRINCIPAL = columns("""
mask | | principal, low_magnitude, safe, complement, principal_not_low or random | paper 4.2 and 4.3
alpha | fraction | fraction of each matrix that the principal and the low-magnitude mask take
n | weights | weights of the matrices
density_mask | fraction | weights in the mask, over n
density_update | fraction | changed weights, over n
overlap_update | fraction | changed weights in the mask, over changed weights (the paper's overlap ratio) | paper 4.2
chance_update | fraction | the same, if each matrix's changes were spread evenly
magnitude_matched_update | fraction | the same, if each magnitude key kept its change rate
overlap_mask | fraction | changed weights in the mask, over weights in the mask
chance_mask | fraction | the same, if each matrix's changes were spread evenly
magnitude_matched_mask | fraction | the same, if each magnitude key kept its change rate
""")
_CONSENSUS = columns("""
frame | | raw or aligned
runs | runs | runs that are compared
n | weights | weights that the row sums over
changed_by | runs | number of runs
share | fraction | weights that exactly so many runs changed, over n | paper 2.2
chance | fraction | the same, expected of independent runs, each with its density in the tensor
magnitude_matched | fraction | the same, expected of independent runs, each with its change rates by magnitude
""")
_RATES = columns("""
checkpoint | | END of the checkpoint
side | | row or column: the lines whose rates are compared
baseline | | chance or magnitude_matched: what the expected changes of the lines follow from
lines | lines | number of rows or columns
rate | fraction | changed weights over weights
score | | squared differences of changes and expected changes, summed over lines, over the sum of their variances under the baseline; 1 in the mean where lines differ by sampling alone
null_sd | | standard deviation of score under the baseline
z | | (score - 1) / null_sd
p | probability | that the score is at least as high under the baseline
excess_sd | fraction | standard deviation of the lines' rates beyond the baseline
""")
_CORRELATE = columns("""
checkpoint_a | | END of the first checkpoint
checkpoint_b | | END of the second checkpoint
side | | row or column
pearson | correlation | of the change rates of lines, (co)variances within matrices
spearman | correlation | of their ranks within matrices
pearson_above_magnitude_matched | correlation | of the change rates minus those expected by magnitude_matched
""")
_CURVATURE = columns("""
curvature | | empirical_fisher, fisher (sampled labels) or hessian: the diagonal
matrices | matrices | matrices that the row is about
n | weights | their weights
mean | | mean of the diagonal's entries
rms | | root mean square of the entries
error | | root mean square of their standard errors
rho_principal | correlation | Spearman's, of the diagonal's size and the principal score
rho_magnitude | correlation | Spearman's, of the diagonal's size and the weight's size
rho_update | correlation | Spearman's, of the diagonal's size and the update's size
rho_principal_given_magnitude | correlation | partial rank correlation with the principal score, given magnitude
in_principal | fraction | summed size of the diagonal in the principal mask, over the summed size of all entries
in_low_magnitude | fraction | the same in the low-magnitude mask
chance | fraction | the same in such a mask, if the sizes were spread evenly
""")
_GATES = columns("""
run | | END of the run
step | steps | of the checkpoint, from its path
matrices | matrices | matrices that the row is about
n | weights | their weights
update_norm | | Frobenius norm of the update
spectral_norm | | largest spectral norm of an update
hidden | fraction | weights that moved and whose bf16 bits did not change, over weights that moved
hidden_square | fraction | squared norm of what bf16 storage takes away, over that of the update
kl | nats a token | KL(start || end) on the text | paper 3.1
kl_error | nats a token | its standard error over sequences
kl_reverse | nats a token | KL(end || start)
kl_reverse_error | nats a token | its standard error
kl_norm | | sqrt(2 kl)
fisher_norm | | sqrt(D^T F D), with the update D and the Fisher information F at the start
fisher_over_kl_norm | | fisher_norm / kl_norm; 1 where the second-order approximation of KL holds
rayleigh | | D^T F D / ||D||^2
""")
_TENSORS = columns("""
tensor | | name of the stored tensor
dtype | | as it is stored
rounding_error | fraction | ||stored - unrounded|| / ||unrounded||
before | | SHA-256 of its bytes in the source
after | | SHA-256 of its bytes in the output
""")
_CHECKS = columns("""
check | | algebra (without rounding, in float64), weights_off (stored weights), storage (as stored)
value | | relative error of the logits, or a number of weights
bound | | the largest value that passes
passed | | whether it does
""")
_LAYER_ERRORS = columns("""
layer | | number of the layer
algebra | fraction | ||difference|| / ||hidden states|| behind the layer, without rounding
storage | fraction | the same of the stored model
noise | fraction | the same with half an ULP of noise on the weights that differ
""")
_INSPECT = columns("""
symmetry | | name of the symmetry
axis | | the axes that it acts on
layers | | layers that have the symmetry, or that lack it for this reason
applies | | whether these layers have the symmetry
group | | the group of one layer
reason | | why it does not apply
options | | options and their defaults
""")

TABLES: Mapping[str, Columns] = {
    "apply": _TENSORS,
    "fold": _TENSORS,
    "invert": {"tensor": _TENSORS["tensor"]},
    "verify": _CHECKS,
    "verify --by layer": _LAYER_ERRORS,
    "inspect": _INSPECT,
    "diff": LEVELS | _CHANGES,
    "overlap": LEVELS | _PAIR | _OVERLAP | _MEANS,
    "decompose": LEVELS | _PAIR | _PARTS | _MEANS,
    "spectra": LEVELS | _SPECTRA,
    "principal": LEVELS | _PRINCIPAL,
    "consensus": LEVELS | _CONSENSUS,
    "rates": LEVELS | _RATES,
    "correlate": LEVELS | _CORRELATE,
    "curvature": LEVELS | _CURVATURE,
    "gates": LEVELS | _GATES,
}
"""By measure. `decompose` is `overlap --decompose`, `correlate` is `rates --correlate`."""


def find(table: str, name: str, tables: Mapping[str, Columns] = TABLES) -> Column:
    """One column of a table.

    Raises:
        SelectionError: no such table, or none of its columns has the name.
    """
    known = tables.get(table)
    if known is None:
        raise SelectionError(f"no table '{table}'; there are {', '.join(tables)}")
    number = name if name in known else re.sub(r"@\d+", "@{k}", name)
    if number not in known:
        raise SelectionError(f"{table} has no column '{name}'")
    return known[number]


def described(
    table: str, names: Iterable[str], tables: Mapping[str, Columns] = TABLES
) -> dict[str, dict[str, str]]:
    """Unit, definition and source of columns of a table, by name.

    Raises:
        SelectionError: a column that the table does not have.
    """
    found = {name: asdict(find(table, str(name), tables)) for name in names}
    return {name: {key: one[key] for key in ("unit", "definition", "source")} for name, one in found.items()}


def help_text(*tables: str, known: Mapping[str, Columns] = TABLES) -> str:
    """The columns of tables, for the end of a command's help."""
    parts = []
    for table in tables:
        lines = [
            f"{one.name}{f' ({one.unit})' if one.unit else ''}: {one.definition}"
            for one in known[table].values()
        ]
        parts.append(f"Columns of {table}:\n\n" + "\n\n".join(lines))
    return "\n\n".join(parts)
