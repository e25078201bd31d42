"""`scramble.consensus` and `scramble.rates`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool

from scramble.analysis import arguments
from scramble.analysis.arguments import Names, Place, Runs
from scramble.analysis.geometry import passed_over
from scramble.analysis.result import result
from scramble.errors import ManifestError, SelectionError, TargetError, UnknownFamilyError
from scramble.measures.geometry.mask_file import MaskFile, refuse_existing
from scramble.measures.maps import consensus as counts_of
from scramble.measures.maps import rates as rates_of
from scramble.measures.maps.heads import Boundary, boundaries
from scramble.measures.pairs.ends import CheckpointPair
from scramble.measures.pairs.selection import Selection, matrices
from scramble.present.progress import counter
from scramble.runfolder import is_run
from scramble.transforms.selection import Layers

BY = ("model", "module")


def consensus(
    runs: Runs,
    *,
    by: Names = BY,
    layers: Layers = None,
    modules: Names = None,
    embeddings: bool = False,
    frame: str = "raw",
    base: Place | None = None,
    write: Place | None = None,
    force: bool = False,
    plot: Place | None = None,
    progress: bool | None = None,
) -> pd.DataFrame:
    """How many runs changed each weight, with what chance and magnitude predict (arXiv 2511.08567, 2.2).

    Args:
        runs: a list of two runs or more, each a checkpoint pair `"START:END"` or (START, END), or a run
            folder.
        by: what the rows sum over: model, tower, module, layer, layer-module, tensor; a list, or text with
            commas.
        layers: only these layers: numbers, or text as `"20,25"`, `"4-8"`, `"-1"`, `"all"`; None for all.
        modules: only these modules, as `["q_proj"]` or `"q_proj,o_proj"`; None for all.
        embeddings: measure embeddings and output heads too.
        frame: `raw` (as stored), or `aligned` (scrambles undone before comparing).
        base: the checkpoint that was scrambled; None for where the manifest says.
        write: a `.safetensors` file for the mask of every run, one bit a weight.
        force: replace an existing file.
        plot: an `.svg` or `.png` file to draw the maps into.
        progress: show a bar; None for where standard error is a terminal, and in a notebook.

    Returns:
        A row for each unit of each level and each number of runs. `attrs["columns"]` has unit, definition and
        source of every column, `attrs["meta"]` what was measured.

    Raises:
        SelectionError: fewer than two runs, or a level, layer or module that is not there.
        ManifestError: the aligned frame was asked for and cannot be had.
        TargetError: the file of masks exists, or cannot be written.
        CheckpointError: a checkpoint cannot be read.
        MismatchError: START and END are not of one model.
        DamagedRunError: a run folder cannot be read.
    """
    levels, chosen_frame, given = arguments.levels(by, BY), arguments.frame_of(frame), arguments.listed(runs)
    if len(given) < 2:
        raise SelectionError("consensus needs two runs or more, each START:END")
    if write:
        refuse_existing(Path(write), force)
    opened = arguments.several(given, aligned=frame == "aligned", base=base)
    undone = [run.name for run in opened if run.undo]
    if frame == "aligned" and not undone:
        raise ManifestError("no START carries a scramble.json, so there is nothing to align")
    chosen, file = arguments.selection(layers, modules, embeddings), MaskFile()
    maps = _Maps(opened, chosen) if plot else None

    def keep(tensor: str, masks: Bool[np.ndarray, "runs ..."]) -> None:
        if write:
            for number, mask in enumerate(masks):
                file.add(f"{number}/{tensor}", mask)
        if maps:
            maps.add(tensor, masks)

    with counter("comparing tensors", progress) as advance:
        counts = counts_of.count_consensus(opened, chosen_frame, chosen, advance, keep)
    meta = {"runs": ", ".join(run.name for run in opened)}
    if any(run.seed is not None for run in opened):
        meta["seeds"] = ", ".join(str(run.seed) for run in opened)
    if undone:
        meta["aligned"] = ", ".join(undone)
    if write:
        about = {"mask": "changed", "frame": frame, "runs": json.dumps([run.name for run in opened])}
        file.write(Path(write), about, force=force)
        meta["masks"] = str(write)
    if maps and plot:
        maps.save(plot)
    return result("consensus", counts_of.consensus(counts, levels), meta, opened)


def rates(
    runs: Runs,
    *,
    by: Names = BY,
    layers: Layers = None,
    modules: Names = None,
    embeddings: bool = False,
    correlate: bool = False,
    values: Place | None = None,
    plot: Place | None = None,
    progress: bool | None = None,
) -> pd.DataFrame:
    """How often rows and columns changed: stripe scores beyond chance and magnitude (2511.08567, 2.2).

    Args:
        runs: a run folder, for all its checkpoints; or a list of checkpoint pairs of one START, in the order
            of training.
        by: what the rows sum over: model, tower, module, layer, layer-module, tensor; a list, or text with
            commas.
        layers: only these layers: numbers, or text as `"20,25"`, `"4-8"`, `"-1"`, `"all"`; None for all.
        modules: only these modules, as `["q_proj"]` or `"q_proj,o_proj"`; None for all.
        embeddings: measure embeddings and output heads too.
        correlate: rows are correlations of profiles between checkpoints.
        values: a `.csv` file for all profiles, unsmoothed.
        plot: an `.svg` or `.png` file to draw the profiles into.
        progress: show a bar; None for where standard error is a terminal, and in a notebook.

    Returns:
        A row for each unit of each level, checkpoint, side (row or column) and baseline. `attrs["columns"]`
        has unit, definition and source of every column, `attrs["meta"]` what was measured.

    Raises:
        SelectionError: checkpoints of several STARTs, fewer than two to correlate, or a level, layer or
            module that is not there.
        TargetError: the profiles cannot be written there.
        CheckpointError: a checkpoint cannot be read.
        MismatchError: START and END are not of one model.
        DamagedRunError: a run folder cannot be read.
    """
    levels, given = arguments.levels(by, BY), arguments.listed(runs)
    if values and (Path(values).suffix != ".csv" or not Path(values).parent.is_dir()):
        raise TargetError(f"{values}: profiles are written as .csv, into a folder that exists")
    opened = _checkpoints(given)
    if correlate and len(opened) < 2:
        raise SelectionError("--correlate needs two checkpoints or more")
    chosen = arguments.selection(layers, modules, embeddings)
    drawn = matrices(opened[0], chosen)
    if plot:
        from scramble.measures.maps import figures
        from scramble.present.plots import save

        figures.check_panels(drawn, figures.MOST_PROFILES)
    with counter("measuring matrices", progress) as advance:
        profiles, counts = rates_of.measure(opened, chosen, advance)
    if values:
        rates_of.write_values(profiles, Path(values))
    if plot:
        heads = {
            (name, side): _heads(opened[0], opened[0].part(name)[0], dimension)
            for name in drawn
            for dimension, side in enumerate(rates_of.SIDES)
        }
        save(figures.rates_figure(profiles, heads), plot)
    meta = {
        "start": str(opened[0].start.folder),
        "checkpoints": ", ".join(one.name for one in opened),
        "matrices": len(drawn),
        "passed_over": passed_over(opened[0], drawn),
    }
    if correlate:
        return result("correlate", rates_of.correlations(profiles, levels), meta, opened)
    return result("rates", rates_of.stripe_scores(counts, levels), meta, opened)


def _checkpoints(given: Sequence[arguments.RunLike]) -> list[CheckpointPair]:
    """Checkpoints of one START: all of a run folder, or those that are listed."""
    if len(given) == 1 and isinstance(given[0], str | Path) and is_run(Path(given[0])):
        return rates_of.checkpoints_of(Path(given[0]))
    if not given:
        raise SelectionError("rates takes a run folder, or START:END once for each checkpoint")
    return [arguments.open_run(one) for one in given]


class _Maps:
    """Maps of the matrices that the figure shows, collected while tensors are compared."""

    def __init__(self, runs: Sequence[CheckpointPair], chosen: Selection) -> None:
        from scramble.measures.maps import figures

        self.runs, self.figures, self.maps = runs, figures, list[figures.Map]()
        self.parts = dict[str, dict[str, tuple[int, ...]]]()
        drawn = matrices(runs[0], chosen)
        figures.check_panels(drawn, figures.MOST_MAPS)
        for name in drawn:
            whole, index = runs[0].part(name)
            self.parts.setdefault(whole, {})[name] = index

    def add(self, tensor: str, masks: Bool[np.ndarray, "runs ..."]) -> None:
        from scramble.measures.maps.area import area_means

        cells = self.figures.cells
        for name, index in self.parts.get(tensor, {}).items():
            by_runs = masks.sum(axis=0, dtype="uint16")[index]
            high, wide = by_runs.shape
            means = area_means(by_runs, cells(high), cells(wide)) / len(masks)
            run = self.runs[0]
            rows, columns = (_heads(run, tensor, dimension) for dimension in (0, 1))
            self.maps.append(self.figures.Map(name, means, (high, wide), rows, columns, run.where(name)))

    def save(self, path: Place) -> None:
        from scramble.present.plots import save

        save(self.figures.consensus_figure(self.maps, len(self.runs)), path)


def _heads(run: CheckpointPair, tensor: str, dimension: int) -> tuple[Boundary, ...]:
    """Head boundaries; none for a family without a table, whose updates are counted all the same."""
    try:
        return boundaries(run.base or run.start, tensor, dimension)
    except UnknownFamilyError:
        return ()
