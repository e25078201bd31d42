"""One run's curvature at its start: Fisher and Hessian diagonals, and top eigenvalues of single layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from scramble.errors import SelectionError
from scramble.measures.curvature.diagonal import Diagonal
from scramble.measures.curvature.fisher import Labels, fisher_diagonal
from scramble.measures.curvature.hessian import (
    Eigenvalues,
    basis_size,
    hessian_product,
    hutchinson,
    top_eigenvalues,
)
from scramble.measures.curvature.loss import parameters_of
from scramble.measures.curvature.model import DTYPES, check_room, device_of, load_model, weights_in
from scramble.measures.pairs.ends import CheckpointPair
from scramble.measures.pairs.selection import Selection, matrices, read_ends
from scramble.models.prompts import LENGTH, MOST_SEQUENCES, read_prompts
from scramble.transforms.selection import layers as selected_layers

Counter = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
PROBES, EIGENVALUES = 8, 3


@dataclass(frozen=True)
class Curvature:
    """What was measured.

    Attributes:
        diagonals: `empirical_fisher` or `fisher`, by the labels, and `hessian` if there were probes.
        eigenvalues: of the Hessian restricted to the chosen matrices of one layer, for each layer asked for.
        memory: bytes for the weights and vectors of their size, the most at any time.
    """

    names: list[str]
    diagonals: dict[str, Diagonal]
    eigenvalues: dict[int, Eigenvalues]
    sequences: int
    tokens: int
    memory: int


def curvature(
    run: CheckpointPair,
    prompts: Path,
    chosen: Selection | None = None,
    *,
    labels: Labels = "text",
    probes: int = PROBES,
    block_layers: str | None = None,
    eigenvalues: int = EIGENVALUES,
    seed: int = 0,
    length: int = LENGTH,
    most: int = MOST_SEQUENCES,
    dtype: str = "float32",
    device: str | None = None,
    counter: Counter = lambda what: nullcontext(lambda done, total: None),
) -> Curvature:
    """Measure at START, over the chosen matrices; everything else stays fixed.

    Args:
        labels: of the Fisher diagonal, see `scramble.measures.curvature.fisher`.
        probes: of Hutchinson's estimate; 0 leaves the Hessian's diagonal out.
        block_layers: as `--layers`; each of these layers is a block of its own.
        counter: makes a progress bar for each part.

    Raises:
        SelectionError: prompts, matrices, layers or device that are not there.
        CheckpointError: a chosen matrix holds infinite or NaN values.
        UndecidedError: no room, no model, logits that are not finite, or Lanczos did not converge.
    """
    names, where, kind = matrices(run, chosen or Selection()), device_of(device), DTYPES[dtype]
    blocks = _blocks(run, names, block_layers)
    tokens = torch.from_numpy(read_prompts(run.start.folder, prompts, length, most)).to(where)
    for name in names:
        read_ends(run, name)  # refuses what is not finite before the slow part
    memory = _memory(run, names, blocks, probes, eigenvalues) * kind.itemsize
    check_room(run.start, memory, where)
    model = load_model(run.start, kind, where)
    parameters = parameters_of(model, _tensors(run, names))
    diagonals, tops = dict[str, Diagonal](), dict[int, Eigenvalues]()
    with counter("Fisher, sequences") as progress:
        kind_of_fisher = "empirical_fisher" if labels == "text" else "fisher"
        diagonals[kind_of_fisher] = fisher_diagonal(model, parameters, tokens, labels, seed, progress)
    if probes:
        with counter("Hessian, probes") as progress:
            product = hessian_product(model, parameters, tokens)
            diagonals["hessian"] = hutchinson(product, parameters, probes, seed, progress)
    with counter("Lanczos, layers") as progress:
        for done, (layer, held) in enumerate(blocks.items()):
            model.requires_grad_(False)
            block = parameters_of(model, _tensors(run, held))
            tops[layer] = top_eigenvalues(hessian_product(model, block, tokens), block, eigenvalues, seed)
            progress(done + 1, len(blocks))
    return Curvature(names, diagonals, tops, len(tokens), tokens.numel(), memory)


def _blocks(run: CheckpointPair, names: Sequence[str], asked: str | None) -> dict[int, list[str]]:
    """The chosen matrices of each layer asked for."""
    if asked is None:
        return {}
    layers = {name: run.where(name)["layer"] for name in [*run.tensors, *names]}
    count = 1 + max((number for number in layers.values() if isinstance(number, int)), default=-1)
    try:
        wanted = selected_layers(asked, count)
    except SelectionError as error:
        raise SelectionError(str(error).replace("--layers", "--block-layers")) from None
    found = {layer: [name for name in names if layers[name] == layer] for layer in wanted}
    if empty := [layer for layer, held in found.items() if not held]:
        raise SelectionError(f"--block-layers {asked}: no matrix of layer {empty[0]} is chosen")
    return found


def _tensors(run: CheckpointPair, names: Sequence[str]) -> list[str]:
    """The stored tensors of matrices; stacks are chosen whole."""
    return list(dict.fromkeys(run.part(name)[0] for name in names))


def _memory(
    run: CheckpointPair, names: Sequence[str], blocks: dict[int, list[str]], probes: int, eigenvalues: int
) -> int:
    """Numbers held at most: the model, an accumulator for each diagonal, and what a measure works with.

    Fisher has one gradient; a probe has z, the gradient and H z, twice while batches are added; Lanczos has
    its basis, and five vectors for a product.
    """
    selected = weights_in(run.start, _tensors(run, names))
    largest = max((weights_in(run.start, _tensors(run, held)) for held in blocks.values()), default=0)
    work = [2 * selected]
    if probes:
        work.append(6 * selected)
    if largest:
        work.append((1 + (probes > 0)) * selected + (basis_size(eigenvalues, largest) + 5) * largest)
    return weights_in(run.start) + max(work)
