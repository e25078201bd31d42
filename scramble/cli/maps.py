"""`scramble consensus` and `scramble rates`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import scramble
from scramble.cli.measure import measure, show
from scramble.cli.options import (
    RUN_HELP,
    BaseOption,
    ByOption,
    EmbeddingsOption,
    ForceOption,
    FormatOption,
    LayersOption,
    ModulesOption,
    PlotOption,
    QuietOption,
    RunsArgument,
    TableOption,
)
from scramble.present.table import Format


def commands(app: typer.Typer) -> None:
    measure(app, consensus, "consensus")
    measure(app, rates, "rates", "correlate")


def consensus(
    runs: RunsArgument,
    by: ByOption = "model,module",
    layers: LayersOption = None,
    modules: ModulesOption = None,
    embeddings: EmbeddingsOption = False,
    frame: Annotated[str, typer.Option(help="raw, or aligned: scrambles undone before comparing.")] = "raw",
    base: BaseOption = None,
    plot: PlotOption = None,
    write: Annotated[
        Path | None, typer.Option(help="Write every run's mask into this .safetensors file.")
    ] = None,
    force: ForceOption = False,
    table: TableOption = None,
    format: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """How many of the runs changed each weight, with what chance and magnitude predict."""
    found = scramble.consensus(
        runs,
        by=by,
        layers=layers,
        modules=modules,
        embeddings=embeddings,
        frame=frame,
        base=base,
        write=write,
        force=force,
        plot=plot,
        progress=not quiet,
    )
    show(found, format, table)


def rates(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN | START:END...",
            help=f"A run folder, for all its checkpoints; or checkpoints of one START, in order. {RUN_HELP}",
        ),
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
    found = scramble.rates(
        runs or [],
        by=by,
        layers=layers,
        modules=modules,
        embeddings=embeddings,
        correlate=correlate,
        values=values,
        plot=plot,
        progress=not quiet,
    )
    show(found, format, table)
