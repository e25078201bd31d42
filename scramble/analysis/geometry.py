"""`scramble.spectra` and `scramble.principal`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from scramble.analysis import arguments
from scramble.analysis.arguments import Names, Place, Runs
from scramble.analysis.result import result
from scramble.errors import SelectionError
from scramble.measures.geometry import principal as masks_of
from scramble.measures.geometry import spectra as spectra_of
from scramble.measures.geometry.mask_file import MaskFile, refuse_existing
from scramble.measures.geometry.masks import MASKS
from scramble.measures.pairs.ends import CheckpointPair
from scramble.present.progress import counter
from scramble.transforms.selection import Layers

BY, BY_MASK = ("model", "module", "layer"), ("model", "module")


def spectra(
    run: Runs,
    *,
    rank: int = 512,
    by: Names = BY,
    layers: Layers = None,
    modules: Names = None,
    embeddings: bool = False,
    values: Place | None = None,
    plot: Place | None = None,
    progress: bool | None = None,
) -> pd.DataFrame:
    """How far a run rotated singular subspaces (degrees) and moved singular values (NSS), bounds checked.

    Args:
        run: a checkpoint pair `"START:END"` or (START, END), folders or hub ids; or a run folder: its start
            and last checkpoint.
        rank: of the compared singular subspaces, the largest; at most half the smaller side of each matrix.
        by: what the rows sum over: model, tower, module, layer, layer-module, tensor; a list, or text with
            commas.
        layers: only these layers: numbers, or text as `"20,25"`, `"4-8"`, `"-1"`, `"all"`; None for all.
        modules: only these modules, as `["q_proj"]` or `"q_proj,o_proj"`; None for all.
        embeddings: measure embeddings and output heads too.
        values: a `.csv` file for all singular values and angles (degrees).
        plot: an `.svg` or `.png` file to draw.
        progress: show a bar; None for where standard error is a terminal, and in a notebook.

    Returns:
        A row for each unit of each level. `attrs["columns"]` has unit, definition and source of every column,
        `attrs["meta"]` what was measured.

    Raises:
        BoundError: the measured spectrum breaks a theorem, which is a bug here.
        SelectionError: not one run, or a level, layer or module that is not there.
        CheckpointError: a checkpoint cannot be read.
        MismatchError: START and END are not of one model.
        DamagedRunError: a run folder cannot be read.
    """
    levels, opened = arguments.levels(by, BY), arguments.one_run(run, "spectra")
    with counter("decomposing matrices", progress) as advance:
        measured = spectra_of.measure(opened, rank, arguments.selection(layers, modules, embeddings), advance)
    if values:
        spectra_of.write_values(measured, Path(values))
    if plot:
        from scramble.measures.geometry.figures import spectra_figure
        from scramble.present.plots import save

        save(spectra_figure(measured), plot)
    meta = {**_ends(opened), "matrices": len(measured)}
    meta |= {"passed_over": passed_over(opened, (one.tensor for one in measured)), "bounds": "all hold"}
    return result("spectra", spectra_of.spectra(measured, levels), meta, [opened])


def principal(
    run: Runs,
    *,
    rank: int = 64,
    alpha: float | Sequence[float] = 0.5,
    seed: int = 0,
    by: Names = BY_MASK,
    layers: Layers = None,
    modules: Names = None,
    embeddings: bool = False,
    write: Place | None = None,
    mask: str = "safe",
    force: bool = False,
    plot: Place | None = None,
    progress: bool | None = None,
) -> pd.DataFrame:
    """How a run's update overlaps the principal and low-magnitude weights of its start (2511.08567, 4.2).

    Args:
        run: a checkpoint pair `"START:END"` or (START, END), folders or hub ids; or a run folder: its start
            and last checkpoint.
        rank: of the reconstruction; at most half the smaller side of each matrix.
        alpha: fraction of a matrix that a mask takes, above 0 and below 1; or several.
        seed: names the draw of the random mask.
        by: what the rows sum over: model, tower, module, layer, layer-module, tensor; a list, or text with
            commas.
        layers: only these layers: numbers, or text as `"20,25"`, `"4-8"`, `"-1"`, `"all"`; None for all.
        modules: only these modules, as `["q_proj"]` or `"q_proj,o_proj"`; None for all.
        embeddings: measure embeddings and output heads too.
        write: a `.safetensors` file for the masks of the kind `mask`, one bit a weight.
        mask: the kind that is written: principal, low_magnitude, safe, complement, principal_not_low or
            random.
        force: replace an existing file.
        plot: an `.svg` or `.png` file to draw.
        progress: show a bar; None for where standard error is a terminal, and in a notebook.

    Returns:
        A row for each unit of each level, mask and alpha. `attrs["columns"]` has unit, definition and source
        of every column, `attrs["meta"]` what was measured.

    Raises:
        SelectionError: an alpha out of range, an unknown mask, or a level, layer or module that is not there.
        TargetError: the file of masks exists, or cannot be written.
        CheckpointError: a checkpoint cannot be read.
        MismatchError: START and END are not of one model.
        DamagedRunError: a run folder cannot be read.
    """
    levels, alphas = arguments.levels(by, BY_MASK), _alphas(alpha)
    if mask not in MASKS:
        raise SelectionError(f"--mask {mask}: not one of {', '.join(MASKS)}")
    if write and len(alphas) > 1:
        raise SelectionError("--write takes one --alpha, not a --sweep")
    if write:
        refuse_existing(Path(write), force)
    opened = arguments.one_run(run, "principal")
    chosen, file = arguments.selection(layers, modules, embeddings), MaskFile()

    def keep(tensor: str, alpha: float, masks: masks_of.Masks) -> None:
        if write:
            whole, index = opened.part(tensor)
            file.add(whole, masks[mask], index)

    with counter("comparing masks", progress) as advance:
        counts = masks_of.count_masks(opened, rank, alphas, seed, chosen, advance, keep)
    names = list(counts["tensor"].unique())
    if write:
        start = opened.start.hash({opened.part(name)[0] for name in names})
        about = {"mask": mask, "rank": rank, "alpha": alphas[0], "seed": seed, "start": start}
        file.write(Path(write), about, force=force)
    if plot:
        from scramble.measures.geometry.figures import principal_figure
        from scramble.present.plots import save

        save(principal_figure(counts), plot)
    meta = {**_ends(opened), "rank": rank, "matrices": len(names), "passed_over": passed_over(opened, names)}
    meta |= {"masks": str(write)} if write else {}
    return result("principal", masks_of.principal(counts, levels), meta, [opened])


def passed_over(run: CheckpointPair, matrices: Iterable[str]) -> int:
    """How many of a run's tensors hold none of these matrices."""
    return len(run.tensors) - len({run.part(name)[0] for name in matrices})


def _ends(run: CheckpointPair) -> dict[str, object]:
    return {"start": str(run.start.folder), "end": str(run.end.folder)}


def _alphas(alpha: float | Sequence[float]) -> list[float]:
    alphas = [alpha] if isinstance(alpha, int | float) else sorted(set(alpha))
    if wrong := [one for one in alphas if not 0 < one < 1]:
        raise SelectionError(f"alpha {wrong[0]:g}: a fraction of the weights must be above 0 and below 1")
    return alphas
