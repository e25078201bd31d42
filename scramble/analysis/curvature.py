"""`scramble.curvature` and `scramble.gates`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

import pandas as pd

from scramble.analysis import arguments
from scramble.analysis.arguments import Names, Place, Runs
from scramble.analysis.result import result
from scramble.errors import SelectionError
from scramble.measures.curvature import correlations as correlations_of
from scramble.measures.curvature import gates as gates_of
from scramble.measures.curvature.measure import curvature as measure
from scramble.present.progress import counter
from scramble.transforms.selection import Layers, layer_text

BY = ("model", "module")
Dtype = Literal["float32", "float64"]
Labels = Literal["text", "sampled"]


def curvature(
    run: Runs,
    *,
    prompts: Place | None,
    labels: Labels = "text",
    probes: int = 8,
    block_layers: Layers = None,
    eigenvalues: int = 3,
    rank: int = 64,
    alpha: float = 0.5,
    seed: int = 0,
    by: Names = BY,
    layers: Layers = None,
    modules: Names = None,
    embeddings: bool = False,
    length: int = 32,
    sequences: int = 16,
    dtype: Dtype = "float32",
    device: str | None = None,
    plot: Place | None = None,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Curvature of the loss at START, and its correlation with principal weights, magnitude and update.

    Args:
        run: a checkpoint pair `"START:END"` or (START, END), folders or hub ids; or a run folder: its start
            and last checkpoint.
        prompts: a text file to run on, which training did not see.
        labels: `text`: the Fisher diagonal of the text's own tokens (empirical); `sampled`: of tokens that
            the model draws.
        probes: number of sign vectors that estimate the Hessian's diagonal (Hutchinson); 0 leaves it out.
        block_layers: layers within which top eigenvalues of the Hessian are computed; None for none.
        eigenvalues: how many of each of these layers.
        rank: of the reconstruction that gives the principal weights.
        alpha: fraction of a matrix that a mask takes, above 0 and below 1.
        seed: names the draws of probes and labels.
        by: what the rows sum over: model, tower, module, layer, layer-module, tensor; a list, or text with
            commas.
        layers: only these layers: numbers, or text as `"20,25"`, `"4-8"`, `"-1"`, `"all"`; None for all.
        modules: only these modules, as `["q_proj"]` or `"q_proj,o_proj"`; None for all.
        embeddings: measure embeddings and output heads too.
        length: tokens of a sequence of the text.
        sequences: how many sequences at most.
        dtype: of the model that is run: `float32` or `float64`.
        device: where it runs, as `cuda`; None for a GPU where there is one.
        plot: an `.svg` or `.png` file to draw.
        progress: show a bar; None for where standard error is a terminal, and in a notebook.

    Returns:
        A row for each unit of each level and kind of curvature. `attrs["columns"]` has unit, definition and
        source of every column, `attrs["meta"]` what was measured.

    Raises:
        SelectionError: no text, an alpha out of range, or a level, layer or module that is not there.
        UndecidedError: the model does not fit in memory, or something is not finite.
        CheckpointError: a checkpoint cannot be read.
        MismatchError: START and END are not of one model.
        DamagedRunError: a run folder cannot be read.
    """
    levels, text = arguments.levels(by, BY), _needed(prompts)
    if not 0 < alpha < 1:
        raise SelectionError(f"alpha {alpha:g}: a fraction of the weights lies above 0 and below 1")
    opened = arguments.one_run(run, "curvature")
    measured = measure(
        opened,
        text,
        arguments.selection(layers, modules, embeddings),
        labels=labels,
        probes=probes,
        block_layers=layer_text(block_layers),
        eigenvalues=eigenvalues,
        seed=seed,
        length=length,
        most=sequences,
        dtype=dtype,
        device=device,
        counter=partial(counter, progress=progress),
    )
    with counter("correlating matrices", progress) as advance:
        figures = correlations_of.matrix_figures(opened, measured, rank, alpha, advance)
    if plot:
        from scramble.measures.curvature.figures import curvature_figure
        from scramble.present.plots import save

        save(curvature_figure(figures), plot)
    tops = {
        f"top eigenvalues, layer {layer}": ", ".join(
            f"{value:.4g} (residual {residual:.1g})"
            for value, residual in zip(found.values, found.residuals, strict=True)
        )
        for layer, found in measured.eigenvalues.items()
    }
    meta = {
        "start": str(opened.start.folder),
        "end": str(opened.end.folder),
        "sequences": measured.sequences,
        "tokens": measured.tokens,
        "labels": labels,
        "probes": probes,
        "rank": rank,
        "alpha": alpha,
        "arithmetic": dtype,
        "memory": f"{measured.memory / 1e9:.2f} GB, and activations",
    }
    return result("curvature", correlations_of.correlations(figures, levels), meta | tops, [opened])


def gates(
    runs: Runs,
    *,
    prompts: Place | None,
    by: Names = BY,
    layers: Layers = None,
    modules: Names = None,
    embeddings: bool = False,
    length: int = 32,
    sequences: int = 16,
    dtype: Dtype = "float32",
    device: str | None = None,
    plot: Place | None = None,
    progress: bool | None = None,
) -> pd.DataFrame:
    """How far a run moved its predictions (KL) and weights, its Fisher norm, and what bf16 storage hides.

    Args:
        runs: a checkpoint pair, a run folder, or a list of them; or of checkpoints of one run.
        prompts: a text file to run on, which training did not see.
        by: what the rows sum over: model, tower, module, layer, layer-module, tensor; a list, or text with
            commas.
        layers: only these layers: numbers, or text as `"20,25"`, `"4-8"`, `"-1"`, `"all"`; None for all.
        modules: only these modules, as `["q_proj"]` or `"q_proj,o_proj"`; None for all.
        embeddings: measure embeddings and output heads too.
        length: tokens of a sequence of the text.
        sequences: how many sequences at most.
        dtype: of the model that is run: `float32` or `float64`.
        device: where it runs, as `cuda`; None for a GPU where there is one.
        plot: an `.svg` or `.png` file to draw.
        progress: show a bar; None for where standard error is a terminal, and in a notebook.

    Returns:
        A row for each unit of each level and run. `attrs["columns"]` has unit, definition and source of every
        column, `attrs["meta"]` what was measured.

    Raises:
        SelectionError: no text, or a level, layer or module that is not there.
        UndecidedError: the model does not fit in memory, or something is not finite.
        CheckpointError: a checkpoint cannot be read.
        MismatchError: START and END are not of one model.
        DamagedRunError: a run folder cannot be read.
    """
    levels, text = arguments.levels(by, BY), _needed(prompts)
    opened = arguments.several(runs)
    chosen = arguments.selection(layers, modules, embeddings)
    with counter("measuring updates", progress) as advance:
        counts = gates_of.norms(opened, chosen, advance)
    with counter("comparing predictions", progress) as advance:
        leashes = gates_of.leash(
            opened, text, length=length, most=sequences, dtype=dtype, device=device, progress=advance
        )
    if plot:
        from scramble.measures.curvature.figures import gates_figure
        from scramble.present.plots import save

        save(gates_figure(counts, leashes), plot)
    meta = {
        "start": ", ".join(dict.fromkeys(str(run.start.folder) for run in opened)),
        "sequences": int(leashes["sequences"].min()),
        "tokens": int(leashes["tokens"].min()),
        "arithmetic": dtype,
    }
    found = gates_of.gates(counts, leashes, levels)
    found["run"] = [opened[number - 1].name for number in found["run"]]
    return result("gates", found, meta, opened)


def _needed(prompts: Place | None) -> Path:
    if prompts is None:
        raise SelectionError("--prompts FILE is needed: a text that training did not see")
    return Path(prompts)
