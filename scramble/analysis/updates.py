"""`scramble.diff` and `scramble.overlap`."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from scramble.analysis import arguments
from scramble.analysis.arguments import Names, Place, Runs
from scramble.analysis.result import result
from scramble.errors import ManifestError, SelectionError
from scramble.measures.pairs.ends import CheckpointPair
from scramble.measures.pairs.selection import matrices
from scramble.measures.updates import tables
from scramble.present.progress import counter
from scramble.transforms.selection import Layers

BY = ("model", "module", "layer")


def diff(
    run: Runs,
    *,
    by: Names = BY,
    layers: Layers = None,
    modules: Names = None,
    eta: float = 0.0,
    plot: Place | None = None,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Which weights a run changed: density and sparsity of its bf16 update (arXiv 2511.08567, 2.1).

    Args:
        run: a checkpoint pair `"START:END"` or (START, END), folders or hub ids; or a run folder: its start
            and last checkpoint.
        by: what the rows sum over: model, tower, module, layer, layer-module, tensor; a list, or text with
            commas.
        layers: only these layers: numbers, or text as `"20,25"`, `"4-8"`, `"-1"`, `"all"`; None for all.
        modules: only these modules, as `["q_proj"]` or `"q_proj,o_proj"`; None for all.
        eta: if positive, count as changed what moved by more than this fraction of its size, `|W+ - W0| > eta
            max(|W+|, |W0|)`, in place of what has other bf16 bits.
        plot: an `.svg` or `.png` file to draw.
        progress: show a bar; None for where standard error is a terminal, and in a notebook.

    Returns:
        A row for each unit of each level. `attrs["columns"]` has unit, definition and source of every column,
        `attrs["meta"]` what was measured.

    Raises:
        SelectionError: not one run, or a level, layer or module that is not there.
        CheckpointError: a checkpoint cannot be read.
        MismatchError: START and END are not of one model.
        DamagedRunError: a run folder cannot be read.
    """
    levels, opened = arguments.levels(by, BY), arguments.one_run(run, "diff")
    tensors = _chosen(opened, layers, modules)
    with counter("counting changes", progress) as advance:
        counts = tables.count_updates(opened, advance, eta=eta, tensors=tensors)
    if plot:
        from scramble.measures.updates.figures import diff_figure
        from scramble.present.plots import save

        save(diff_figure(counts), plot)
    meta = {"start": str(opened.start.folder), "end": str(opened.end.folder)} | _rule(eta)
    return result("diff", tables.diff(counts, levels), meta, [opened])


def overlap(
    runs: Runs,
    *,
    by: Names = BY,
    layers: Layers = None,
    modules: Names = None,
    frame: str = "both",
    base: Place | None = None,
    placebos: int = 0,
    row_column: bool = False,
    decompose: bool = False,
    mean: bool = False,
    eta: float = 0.0,
    plot: Place | None = None,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Overlap of the updates of runs, pair by pair, with the overlap that baselines predict.

    Args:
        runs: a list of two runs or more, each a checkpoint pair `"START:END"` or (START, END), or a run
            folder.
        by: what the rows sum over: model, tower, module, layer, layer-module, tensor; a list, or text with
            commas.
        layers: only these layers: numbers, or text as `"20,25"`, `"4-8"`, `"-1"`, `"all"`; None for all.
        modules: only these modules, as `["q_proj"]` or `"q_proj,o_proj"`; None for all.
        frame: `raw` (as stored), `aligned` (scrambles undone before comparing), or `both`.
        base: the checkpoint that was scrambled; None for where the manifest says.
        placebos: number of wrong alignments beside the true one, as frames `placebo-0`, `placebo-1`, ...
        row_column: fit change rates by row and column too, in a second, slower pass.
        decompose: say what the overlap above chance is made of, in weights and as fractions (with
            `row_column`).
        mean: means over all pairs in place of every pair.
        eta: as in `diff`.
        plot: an `.svg` or `.png` file to draw.
        progress: show a bar; None for where standard error is a terminal, and in a notebook.

    Returns:
        A row for each unit of each level, pair of runs and frame. `attrs["columns"]` has unit, definition and
        source of every column, `attrs["meta"]` what was measured.

    Raises:
        SelectionError: fewer than two runs, or a level, layer or module that is not there.
        ManifestError: the aligned frame was asked for and cannot be had.
        CheckpointError: a checkpoint cannot be read.
        MismatchError: START and END are not of one model.
        DamagedRunError: a run folder cannot be read.
    """
    levels, frames, given = arguments.levels(by, BY), arguments.frames_of(frame), arguments.listed(runs)
    if len(given) < 2:
        raise SelectionError("overlap needs two runs or more, each START:END")
    opened = arguments.several(given, aligned="aligned" in frames, base=base, placebos=placebos)
    undone = [run.name for run in opened if run.undo]
    if frame == "aligned" and not undone:
        raise ManifestError("no START carries a scramble.json, so there is nothing to align")
    if not undone:
        frames = ["raw"]
    with counter("comparing tensors", progress) as advance:
        counts = tables.count_pairs(
            opened,
            frames,
            advance,
            row_column=row_column or decompose,
            eta=eta,
            tensors=_chosen(opened[0], layers, modules),
        )
    found = (tables.decomposed if decompose else tables.overlap)(counts, levels)
    still = _unmoved(tables.overlap(counts, ["model"]))
    if mean:
        found = tables.mean_pairs(found)
    if plot:
        from scramble.measures.updates import figures
        from scramble.present.plots import save

        save((figures.decomposition_figure if decompose else figures.overlap_figure)(counts), plot)
    bf16 = sorted(run.name for run in opened if run.end.storage(run.tensors[0]).name == "BF16")
    meta = {
        "runs": len(opened),
        "aligned": ", ".join(undone) or "none: no START carries a scramble.json",
        "updates_from_bf16_ends": ", ".join(bf16) or "none",
        **(
            {"caution": f"no weight of {' and '.join(still)} changed: overlaps are undefined"}
            if still
            else {}
        ),
        **_rule(eta),
    }
    return result("decompose" if decompose else "overlap", found, meta, opened)


def _chosen(run: CheckpointPair, layers: Layers, modules: Names) -> Sequence[str] | None:
    """Names of the chosen tensors, None for all."""
    if layers is None and not modules:
        return None
    return matrices(run, arguments.selection(layers, modules, embeddings=True), every=True)


def _unmoved(pairs: pd.DataFrame) -> list[str]:
    """Runs in which no weight of any row changed."""
    sides = [pairs.groupby(f"run_{side}")[f"density_{side}"].max() for side in "ab"]
    most = pd.concat(sides).groupby(level=0).max()
    return [str(name) for name in most.index[most == 0]]


def _rule(eta: float) -> dict[str, str]:
    return {"changed": f"|w+ - w0| > {eta:g} max(|w+|, |w0|)"} if eta else {}
