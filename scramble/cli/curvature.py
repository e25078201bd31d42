"""`scramble gates` and `scramble curvature`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import scramble
from scramble.cli.measure import measure, show
from scramble.cli.options import (
    RUN_HELP,
    ByOption,
    EmbeddingsOption,
    FormatOption,
    LayersOption,
    ModulesOption,
    PlotOption,
    QuietOption,
    RunArgument,
    TableOption,
)
from scramble.present.table import Format


class Dtype(StrEnum):
    """Of the model that is run."""

    float32 = "float32"
    float64 = "float64"


class Label(StrEnum):
    """What the Fisher diagonal's gradients are of."""

    text = "text"
    sampled = "sampled"


PromptsOption = Annotated[Path | None, typer.Option(help="A text file to run on; needed.")]
LengthOption = Annotated[int, typer.Option(min=2, help="Tokens of a sequence of the prompts.")]
SequencesOption = Annotated[int, typer.Option(min=1, help="How many sequences of the prompts at most.")]
DtypeOption = Annotated[Dtype, typer.Option(help="Dtype in which the model is run.")]
DeviceOption = Annotated[
    str | None, typer.Option(help="Where the model runs, as cuda or cpu; a GPU if there is one.")
]


def commands(app: typer.Typer) -> None:
    measure(app, curvature, "curvature")
    measure(app, gates, "gates")


def curvature(
    run: RunArgument,
    prompts: PromptsOption = None,
    labels: Annotated[
        Label, typer.Option(help="Labels of the Fisher diagonal: tokens of the text, or drawn by the model.")
    ] = Label.text,
    probes: Annotated[
        int, typer.Option(min=0, help="Probes of the Hessian's diagonal (Hutchinson); 0: no Hessian.")
    ] = 8,
    block_layers: Annotated[
        str | None, typer.Option(help="Top eigenvalues of the Hessian within each of these layers.")
    ] = None,
    eigenvalues: Annotated[int, typer.Option(min=1, help="Number of eigenvalues for each layer.")] = 3,
    rank: Annotated[
        int,
        typer.Option(min=1, help="Rank of the reconstruction; at most half the smaller side of each matrix."),
    ] = 64,
    alpha: Annotated[float, typer.Option(help="Fraction of a matrix that a mask takes, in (0, 1).")] = 0.5,
    seed: Annotated[int, typer.Option(help="Seed of the probes and the sampled labels.")] = 0,
    by: ByOption = "model,module",
    layers: LayersOption = None,
    modules: ModulesOption = None,
    embeddings: EmbeddingsOption = False,
    length: LengthOption = 32,
    sequences: SequencesOption = 16,
    dtype: DtypeOption = Dtype.float32,
    device: DeviceOption = None,
    plot: PlotOption = None,
    table: TableOption = None,
    format: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """Curvature of the loss at START, and its correlation with principal weights, magnitude and update."""
    found = scramble.curvature(
        run,
        prompts=prompts,
        labels=labels.value,
        probes=probes,
        block_layers=block_layers,
        eigenvalues=eigenvalues,
        rank=rank,
        alpha=alpha,
        seed=seed,
        by=by,
        layers=layers,
        modules=modules,
        embeddings=embeddings,
        length=length,
        sequences=sequences,
        dtype=dtype.value,
        device=device,
        plot=plot,
        progress=not quiet,
    )
    show(found, format, table)


def gates(
    runs: Annotated[
        list[str], typer.Argument(metavar="START:END...", help=f"Runs, or checkpoints of one run. {RUN_HELP}")
    ],
    prompts: PromptsOption = None,
    by: ByOption = "model,module",
    layers: LayersOption = None,
    modules: ModulesOption = None,
    embeddings: EmbeddingsOption = False,
    length: LengthOption = 32,
    sequences: SequencesOption = 16,
    dtype: DtypeOption = Dtype.float32,
    device: DeviceOption = None,
    plot: PlotOption = None,
    table: TableOption = None,
    format: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """KL from the start, norms of the update, its Fisher norm, and the fraction that bf16 storage hides."""
    found = scramble.gates(
        runs,
        prompts=prompts,
        by=by,
        layers=layers,
        modules=modules,
        embeddings=embeddings,
        length=length,
        sequences=sequences,
        dtype=dtype.value,
        device=device,
        plot=plot,
        progress=not quiet,
    )
    show(found, format, table)
