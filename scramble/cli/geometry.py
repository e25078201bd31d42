"""`scramble spectra` and `scramble principal`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scramble.cli.updates import ByOption, RunArgument, levels_of, said_left_out
from scramble.errors import SelectionError
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

LayersOption = Annotated[str | None, typer.Option(help="20,25 or 4-8 or -1 or all.")]
ModulesOption = Annotated[
    str | None, typer.Option(help="Modules, comma-separated, as q_proj,o_proj. Default: all.")
]
EmbeddingsOption = Annotated[
    bool, typer.Option("--embeddings", help="Embeddings and output heads too; slow, they are large.")
]


def commands(app: typer.Typer) -> None:
    app.command()(spectra)
    app.command()(principal)


def spectra(
    run: RunArgument,
    rank: Annotated[
        int, typer.Option(min=1, help="Of the subspaces; at most half the smaller side of each matrix.")
    ] = 512,
    by: ByOption = "model,module,layer",
    layers: LayersOption = None,
    modules: ModulesOption = None,
    embeddings: EmbeddingsOption = False,
    values: Annotated[
        Path | None, typer.Option(help="Write all singular values and angles into this .csv file.")
    ] = None,
    plot: PlotOption = None,
    table: TableOption = None,
    format: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """How far a run turned singular subspaces (degrees) and moved singular values (NSS), bounds checked."""
    from scramble.measures.geometry import spectra as tables
    from scramble.measures.geometry.matrices import Selection
    from scramble.measures.pairs.ends import open_run

    levels = levels_of(by)
    opened = open_run(run)
    left_out = said_left_out([opened])
    chosen = Selection(layers, modules.split(",") if modules else (), embeddings)
    with counter("decomposing matrices", quiet) as progress:
        measured = tables.measure(opened, rank, chosen, progress)
    if values:
        tables.write_values(measured, values)
    if plot:
        from scramble.measures.geometry.figures import spectra_figure

        save_figure(spectra_figure(measured), plot)
    meta = {
        "start": str(opened.start.folder),
        "end": str(opened.end.folder),
        "matrices": len(measured),
        "passed_over": len(opened.tensors) - len({opened.part(one.tensor)[0] for one in measured}),
        "bounds": "all hold",
        **left_out,
    }
    emit(records(tables.spectra(measured, levels)), meta, format, table)


def principal(
    run: RunArgument,
    rank: Annotated[
        int, typer.Option(min=1, help="Of the reconstruction; at most half the smaller side of each matrix.")
    ] = 64,
    alpha: Annotated[
        float, typer.Option(help="Share of a matrix that a mask takes, above 0 and below 1.")
    ] = 0.5,
    sweep: Annotated[
        str | None, typer.Option(help="Several alphas, comma-separated, as 0.05,0.3,0.5; instead of --alpha.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Names the draw of the random mask.")] = 0,
    by: ByOption = "model,module",
    layers: LayersOption = None,
    modules: ModulesOption = None,
    embeddings: EmbeddingsOption = False,
    plot: PlotOption = None,
    write: Annotated[
        Path | None, typer.Option(help="Write the masks named by --mask into this .safetensors file.")
    ] = None,
    mask: Annotated[
        str,
        typer.Option(help="principal, low_magnitude, safe, complement, principal_not_low or random."),
    ] = "safe",
    force: ForceOption = False,
    table: TableOption = None,
    format: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """How a run's update overlaps the principal and low-magnitude weights of its start, beside baselines."""
    from scramble.measures.geometry import principal as tables
    from scramble.measures.geometry.mask_file import MaskFile, refuse_existing
    from scramble.measures.geometry.masks import MASKS
    from scramble.measures.geometry.matrices import Selection
    from scramble.measures.pairs.ends import open_run

    levels, alphas = levels_of(by), _alphas(sweep, alpha)
    if mask not in MASKS:
        raise SelectionError(f"--mask {mask}: not one of {', '.join(MASKS)}")
    if write and len(alphas) > 1:
        raise SelectionError("--write takes one --alpha, not a --sweep")
    if write:
        refuse_existing(write, force)
    opened = open_run(run)
    left_out = said_left_out([opened])
    chosen = Selection(layers, modules.split(",") if modules else (), embeddings)
    file = MaskFile()

    def keep(tensor: str, alpha: float, masks: tables.Masks) -> None:
        if write:
            whole, index = opened.part(tensor)
            file.add(whole, masks[mask], index)

    with counter("comparing masks", quiet) as progress:
        counts = tables.count_masks(opened, rank, alphas, seed, chosen, progress, keep)
    if write:
        start = opened.start.hash({opened.part(name)[0] for name in counts["tensor"].unique()})
        about = {"mask": mask, "rank": rank, "alpha": alphas[0], "seed": seed, "start": start}
        file.write(write, about, force=force)
    if plot:
        from scramble.measures.geometry.figures import principal_figure

        save_figure(principal_figure(counts), plot)
    meta = {
        "start": str(opened.start.folder),
        "end": str(opened.end.folder),
        "rank": rank,
        "matrices": counts["tensor"].nunique(),
        "passed_over": len(opened.tensors)
        - len({opened.part(name)[0] for name in counts["tensor"].unique()}),
        **left_out,
    }
    emit(
        records(tables.principal(counts, levels)),
        meta | ({"masks": str(write)} if write else {}),
        format,
        table,
    )


def _alphas(sweep: str | None, alpha: float) -> list[float]:
    texts = sweep.split(",") if sweep is not None else [str(alpha)]
    try:
        alphas = sorted({float(text) for text in texts})
    except ValueError:
        raise SelectionError(f"--sweep {sweep}: not numbers separated by commas, as 0.05,0.3,0.5") from None
    if wrong := [one for one in alphas if not 0 < one < 1]:
        raise SelectionError(f"alpha {wrong[0]:g}: a share of the weights lies above 0 and below 1")
    return alphas
