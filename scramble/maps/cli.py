"""`scramble consensus` and `scramble rates`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scramble.errors import ManifestError, SelectionError, UnknownFamilyError
from scramble.geometry.cli import EmbeddingsOption, LayersOption, ModulesOption, PlotOption
from scramble.printing import (
    ForceOption,
    Format,
    FormatOption,
    QuietOption,
    TableOption,
    counter,
    emit,
    records,
)
from scramble.updates.cli import ByOption, levels_of

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool

    from scramble.maps.heads import Boundary
    from scramble.updates.ends import Run


def commands(app: typer.Typer) -> None:
    app.command()(consensus)


def consensus(
    runs: Annotated[list[str], typer.Argument(metavar="START:END...", help="Two runs or more.")],
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

    from scramble.geometry.mask_file import MaskFile, refuse_existing
    from scramble.geometry.matrices import Selection, matrices
    from scramble.maps import consensus as tables
    from scramble.plots import check_target
    from scramble.updates.ends import FRAMES, open_run

    levels = levels_of(by)
    chosen_frame = next((one for one in FRAMES if one == frame), None)
    if chosen_frame is None:
        raise SelectionError(f"--frame {frame}: raw or aligned")
    if len(runs) < 2:
        raise SelectionError("consensus needs two runs or more, each START:END")
    if write:
        refuse_existing(write, force)
    if plot:
        check_target(plot)
    opened = [open_run(run, aligned=frame == "aligned", base=base) for run in runs]
    undone = [run.name for run in opened if run.undo]
    if frame == "aligned" and not undone:
        raise ManifestError("no START carries a scramble.json, so there is nothing to align")
    chosen = Selection(layers, modules.split(",") if modules else (), embeddings)
    file, meta = MaskFile(), {"runs": ", ".join(run.name for run in opened)}
    if undone:
        meta["aligned"] = ", ".join(undone)
    drawn, maps = [], []
    if plot:
        from scramble.maps import figures
        from scramble.maps.area import area_means

        drawn = matrices(opened[0], chosen)
        figures.check_panels(drawn)

    def keep(tensor: str, masks: Bool[np.ndarray, "runs ..."]) -> None:
        if write:
            for number, mask in enumerate(masks):
                file.add(f"{number}/{tensor}", mask)
        if tensor in drawn:
            high, wide = masks.shape[1:]
            by_runs = masks.sum(axis=0, dtype="uint16")
            cells = area_means(by_runs, min(high, figures.CELLS), min(wide, figures.CELLS)) / len(masks)
            lines = [_heads(opened[0], tensor, dimension) for dimension in (0, 1)]
            maps.append(figures.Map(tensor, cells, (high, wide), *lines))

    with counter("comparing tensors", quiet) as progress:
        counts = tables.count_consensus(opened, chosen_frame, chosen, progress, keep)
    if write:
        about = {"mask": "changed", "frame": frame, "runs": json.dumps([run.name for run in opened])}
        file.write(write, about, force=force)
        meta["masks"] = str(write)
    if plot:
        from scramble.plots import save

        save(figures.consensus_figure(maps, len(opened)), plot)
    emit(records(tables.consensus(counts, levels)), meta, format, table)


def _heads(run: Run, tensor: str, dimension: int) -> tuple[Boundary, ...]:
    """Head boundaries; none for a family without a table, whose updates are counted all the same."""
    from scramble.maps.heads import boundaries

    origin = run.base or run.start
    try:
        return boundaries(origin, tensor, dimension)
    except UnknownFamilyError:
        return ()
