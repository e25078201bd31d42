"""`scramble diff` and `scramble overlap`."""

from __future__ import annotations

from typing import Annotated

import typer

import scramble
from scramble.cli.measure import measure, show
from scramble.cli.options import (
    BaseOption,
    ByOption,
    EtaOption,
    FormatOption,
    LayersOption,
    ModulesOption,
    PlotOption,
    QuietOption,
    RunArgument,
    RunsArgument,
    TableOption,
)
from scramble.present.table import Format

DETAILS = (
    "overlap_b",
    "jaccard_above_chance",
    "jaccard_above_rounding_only",
    "jaccard_above_magnitude_matched",
    "jaccard_above_row_column_matched",
    "update_rank_correlation",
    "sign_agreement",
    "non_finite",
    "rounding",
    "magnitude",
    "row_column",
    "coordinate",
    "coordinate_low",
    "coordinate_high",
)


def commands(app: typer.Typer) -> None:
    measure(app, diff, "diff")
    measure(app, overlap, "overlap", "decompose")


def diff(
    run: RunArgument,
    by: ByOption = "model,module,layer",
    layers: LayersOption = None,
    modules: ModulesOption = None,
    eta: EtaOption = 0.0,
    plot: PlotOption = None,
    table: TableOption = None,
    format: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """Which weights a run changed: sparsity, the fraction of stored bf16 weights that did not change."""
    found = scramble.diff(run, by=by, layers=layers, modules=modules, eta=eta, plot=plot, progress=not quiet)
    show(found, format, table)


def overlap(
    runs: RunsArgument,
    by: ByOption = "model,module,layer",
    layers: LayersOption = None,
    modules: ModulesOption = None,
    frame: Annotated[
        str,
        typer.Option(
            help="raw, aligned (scrambles undone before comparing), or both. After a rotation the "
            "aligned overlap rises for any update: compare with rounding_only there, and with placebos."
        ),
    ] = "both",
    base: BaseOption = None,
    placebos: Annotated[
        int, typer.Option(min=0, help="Number of wrong alignments (placebos), each a frame of its own.")
    ] = 0,
    row_column: Annotated[
        bool, typer.Option(help="Fit change rates by row and column too: a second, slower pass.")
    ] = False,
    decompose: Annotated[
        bool, typer.Option(help="Divide the overlap above chance into parts (with --row-column).")
    ] = False,
    mean: Annotated[
        bool, typer.Option("--mean", help="Means over all pairs in place of every pair.")
    ] = False,
    eta: EtaOption = 0.0,
    plot: PlotOption = None,
    table: TableOption = None,
    format: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """Overlap of the updates of runs, pair by pair, with the overlap that baselines predict."""
    found = scramble.overlap(
        runs,
        by=by,
        layers=layers,
        modules=modules,
        frame=frame,
        base=base,
        placebos=placebos,
        row_column=row_column,
        decompose=decompose,
        mean=mean,
        eta=eta,
        plot=plot,
        progress=not quiet,
    )
    show(found, format, table, details=DETAILS)
