"""`scramble consensus` and `scramble rates`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scramble.cli.geometry import EmbeddingsOption, LayersOption, ModulesOption
from scramble.cli.updates import RUN_HELP, ByOption, RunsArgument, levels_of, said_left_out
from scramble.errors import ManifestError, SelectionError, UnknownFamilyError
from scramble.present.printing import (
    ForceOption,
    Format,
    FormatOption,
    PlotOption,
    QuietOption,
    TableOption,
    counter,
    emit,
    records,
    save_figure,
)

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool

    from scramble.measures.maps.heads import Boundary
    from scramble.measures.pairs.ends import Run


def commands(app: typer.Typer) -> None:
    app.command()(consensus)
    app.command()(rates)


def consensus(
    runs: RunsArgument,
    by: ByOption = "model,module",
    layers: LayersOption = None,
    modules: ModulesOption = None,
    embeddings: EmbeddingsOption = False,
    frame: Annotated[str, typer.Option(help="raw, or aligned: scrambles undone before comparing.")] = "raw",
    base: Annotated[
        Path | None, typer.Option(help="What was scrambled, if it is not where the manifest says.")
    ] = None,
    plot: PlotOption = None,
    write: Annotated[
        Path | None, typer.Option(help="Write every run's mask into this .safetensors file.")
    ] = None,
    force: ForceOption = False,
    table: TableOption = None,
    format: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """How many of the runs changed each weight, beside what chance and magnitude alone give."""
    import json

    from scramble.measures.geometry.mask_file import MaskFile, refuse_existing
    from scramble.measures.geometry.matrices import Selection, matrices
    from scramble.measures.maps import consensus as tables
    from scramble.measures.pairs.ends import FRAMES, open_run

    levels = levels_of(by)
    chosen_frame = next((one for one in FRAMES if one == frame), None)
    if chosen_frame is None:
        raise SelectionError(f"--frame {frame}: raw or aligned")
    if len(runs) < 2:
        raise SelectionError("consensus needs two runs or more, each START:END")
    if write:
        refuse_existing(write, force)
    opened = [open_run(run, aligned=frame == "aligned", base=base) for run in runs]
    left_out = said_left_out(opened)
    undone = [run.name for run in opened if run.undo]
    if frame == "aligned" and not undone:
        raise ManifestError("no START carries a scramble.json, so there is nothing to align")
    chosen = Selection(layers, modules.split(",") if modules else (), embeddings)
    file, meta = MaskFile(), {"runs": ", ".join(run.name for run in opened)}
    if any(run.seed is not None for run in opened):
        meta["seeds"] = ", ".join(str(run.seed) for run in opened)
    if undone:
        meta["aligned"] = ", ".join(undone)
    parts, maps = dict[str, dict[str, tuple[int, ...]]](), []
    if plot:
        from scramble.measures.maps import figures
        from scramble.measures.maps.area import area_means

        drawn = matrices(opened[0], chosen)
        figures.check_panels(drawn, figures.MOST_MAPS)
        for name in drawn:
            whole, index = opened[0].part(name)
            parts.setdefault(whole, {})[name] = index

    def keep(tensor: str, masks: Bool[np.ndarray, "runs ..."]) -> None:
        if write:
            for number, mask in enumerate(masks):
                file.add(f"{number}/{tensor}", mask)
        for name, index in parts.get(tensor, {}).items():
            by_runs = masks.sum(axis=0, dtype="uint16")[index]
            high, wide = by_runs.shape
            means = area_means(by_runs, figures.cells(high), figures.cells(wide)) / len(masks)
            lines = [_heads(opened[0], tensor, dimension) for dimension in (0, 1)]
            maps.append(figures.Map(name, means, (high, wide), *lines, opened[0].where(name)))

    with counter("comparing tensors", quiet) as progress:
        counts = tables.count_consensus(opened, chosen_frame, chosen, progress, keep)
    if write:
        about = {"mask": "changed", "frame": frame, "runs": json.dumps([run.name for run in opened])}
        file.write(write, about, force=force)
        meta["masks"] = str(write)
    if plot:
        save_figure(figures.consensus_figure(maps, len(opened)), plot)
    emit(records(tables.consensus(counts, levels)), meta | left_out, format, table)


def rates(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="START:END...", help=f"Checkpoints of one START, in order. {RUN_HELP}"),
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="A run folder, for its START and all its checkpoints/step-*.")
    ] = None,
    by: ByOption = "model,module",
    layers: LayersOption = None,
    modules: ModulesOption = None,
    embeddings: EmbeddingsOption = False,
    correlate: Annotated[
        bool, typer.Option("--correlate", help="Rows are correlations of profiles between checkpoints.")
    ] = False,
    values: Annotated[
        Path | None, typer.Option(help="Write all profiles, unsmoothed, into this .csv file.")
    ] = None,
    plot: PlotOption = None,
    table: TableOption = None,
    format: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """How often rows and columns changed: stripe scores beyond chance and magnitude, and profiles."""
    from scramble.errors import TargetError
    from scramble.measures.geometry.matrices import Selection, matrices
    from scramble.measures.maps import rates as tables
    from scramble.measures.pairs.ends import open_run

    levels = levels_of(by)
    if bool(runs) == bool(run):
        raise SelectionError("rates takes START:END, once for each checkpoint, or --run FOLDER")
    if values and (values.suffix != ".csv" or not values.parent.is_dir()):
        raise TargetError(f"{values}: profiles are written as .csv, into a folder that exists")
    opened = tables.checkpoints_of(run) if run else [open_run(text) for text in runs or ()]
    left_out = said_left_out(opened)
    if correlate and len(opened) < 2:
        raise SelectionError("--correlate needs two checkpoints or more")
    chosen = Selection(layers, modules.split(",") if modules else (), embeddings)
    drawn = matrices(opened[0], chosen)
    if plot:
        from scramble.measures.maps import figures

        figures.check_panels(drawn, figures.MOST_PROFILES)
    with counter("measuring matrices", quiet) as progress:
        profiles, counts = tables.measure(opened, chosen, progress)
    if values:
        tables.write_values(profiles, values)
    if plot:
        heads = {
            (name, side): _heads(opened[0], opened[0].part(name)[0], dimension)
            for name in drawn
            for dimension, side in enumerate(tables.SIDES)
        }
        save_figure(figures.rates_figure(profiles, heads), plot)
    meta = {
        "start": str(opened[0].start.folder),
        "checkpoints": ", ".join(one.name for one in opened),
        "matrices": len(drawn),
        "passed_over": len(opened[0].tensors) - len({opened[0].part(name)[0] for name in drawn}),
        **left_out,
    }
    found = tables.correlations(profiles, levels) if correlate else tables.stripe_scores(counts, levels)
    emit(records(found), meta, format, table)


def _heads(run: Run, tensor: str, dimension: int) -> tuple[Boundary, ...]:
    """Head boundaries; none for a family without a table, whose updates are counted all the same."""
    from scramble.measures.maps.heads import boundaries

    origin = run.base or run.start
    try:
        return boundaries(origin, tensor, dimension)
    except UnknownFamilyError:
        return ()
