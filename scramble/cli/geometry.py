"""`scramble spectra` and `scramble principal`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import scramble
from scramble.cli.measure import measure, show
from scramble.cli.options import (
    ByOption,
    EmbeddingsOption,
    ForceOption,
    FormatOption,
    LayersOption,
    ModulesOption,
    PlotOption,
    QuietOption,
    RunArgument,
    TableOption,
)
from scramble.errors import SelectionError
from scramble.present.table import Format


def commands(app: typer.Typer) -> None:
    measure(app, spectra, "spectra")
    measure(app, principal, "principal")


def spectra(
    run: RunArgument,
    rank: Annotated[
        int, typer.Option(min=1, help="Rank of the subspaces; at most half the smaller side of each matrix.")
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
    """How far a run rotated singular subspaces and shifted singular values (NSS), with bounds checked."""
    found = scramble.spectra(
        run,
        rank=rank,
        by=by,
        layers=layers,
        modules=modules,
        embeddings=embeddings,
        values=values,
        plot=plot,
        progress=not quiet,
    )
    show(found, format, table)


def principal(
    run: RunArgument,
    rank: Annotated[
        int,
        typer.Option(min=1, help="Rank of the reconstruction; at most half the smaller side of each matrix."),
    ] = 64,
    alpha: Annotated[
        float, typer.Option(help="Fraction of a matrix that a mask takes, above 0 and below 1.")
    ] = 0.5,
    sweep: Annotated[
        str | None, typer.Option(help="Several alphas, comma-separated, as 0.05,0.3,0.5; instead of --alpha.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random mask.")] = 0,
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
    found = scramble.principal(
        run,
        rank=rank,
        alpha=alpha if sweep is None else _alphas(sweep),
        seed=seed,
        by=by,
        layers=layers,
        modules=modules,
        embeddings=embeddings,
        write=write,
        mask=mask,
        force=force,
        plot=plot,
        progress=not quiet,
    )
    show(found, format, table)


def _alphas(sweep: str) -> list[float]:
    try:
        return [float(text) for text in sweep.split(",")]
    except ValueError:
        raise SelectionError(f"--sweep {sweep}: not numbers separated by commas, as 0.05,0.3,0.5") from None
