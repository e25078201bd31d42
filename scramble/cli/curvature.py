"""`scramble gates` and `scramble curvature`."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from scramble.cli.geometry import EmbeddingsOption, LayersOption, ModulesOption
from scramble.cli.updates import RUN_HELP, ByOption, RunArgument, levels_of, said_left_out
from scramble.errors import SelectionError
from scramble.present.printing import (
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
DtypeOption = Annotated[Dtype, typer.Option(help="Of the model that is run.")]
DeviceOption = Annotated[
    str | None, typer.Option(help="Where the model runs, as cuda or cpu; a GPU if there is one.")
]


def commands(app: typer.Typer) -> None:
    app.command()(curvature)
    app.command()(gates)


def curvature(
    run: RunArgument,
    prompts: PromptsOption = None,
    labels: Annotated[
        Label, typer.Option(help="Fisher: the text's own tokens (empirical), or tokens the model draws.")
    ] = Label.text,
    probes: Annotated[
        int, typer.Option(min=0, help="Of the Hessian's diagonal (Hutchinson); 0 leaves it out.")
    ] = 8,
    block_layers: Annotated[
        str | None, typer.Option(help="Top eigenvalues of the Hessian within each of these layers.")
    ] = None,
    eigenvalues: Annotated[int, typer.Option(min=1, help="How many of each block.")] = 3,
    rank: Annotated[
        int, typer.Option(min=1, help="Of the reconstruction; at most half the smaller side of each matrix.")
    ] = 64,
    alpha: Annotated[float, typer.Option(help="Share of a matrix that a mask takes, in (0, 1).")] = 0.5,
    seed: Annotated[int, typer.Option(help="Names the draws of probes and labels.")] = 0,
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
    """Curvature of the loss at START beside principal weights, magnitude and a run's update."""
    from scramble.measures.curvature import correlations as tables
    from scramble.measures.curvature.measure import curvature as measure
    from scramble.measures.geometry.matrices import Selection
    from scramble.measures.pairs.ends import open_run

    levels, text = levels_of(by), _needed(prompts)
    if not 0 < alpha < 1:
        raise SelectionError(f"alpha {alpha:g}: a share of the weights lies above 0 and below 1")
    opened = open_run(run)
    left_out = said_left_out([opened])
    measured = measure(
        opened,
        text,
        Selection(layers, modules.split(",") if modules else (), embeddings),
        labels=labels.value,
        probes=probes,
        block_layers=block_layers,
        eigenvalues=eigenvalues,
        seed=seed,
        length=length,
        most=sequences,
        dtype=dtype,
        device=device,
        counter=partial(counter, quiet=quiet),
    )
    with counter("correlating matrices", quiet) as progress:
        figures = tables.matrix_figures(opened, measured, rank, alpha, progress)
    if plot:
        from scramble.measures.curvature.figures import curvature_figure

        save_figure(curvature_figure(figures), plot)
    tops = {
        f"top eigenvalues, layer {layer}": ", ".join(
            f"{value:.4g} (residual {residual:.1g})"
            for value, residual in zip(found.values, found.residuals, strict=True)
        )
        for layer, found in measured.eigenvalues.items()
    }
    meta = {
        "start": str(opened.start.folder),
        "end": str(opened.end.folder),
        "sequences": measured.sequences,
        "tokens": measured.tokens,
        "labels": labels.value,
        "probes": probes,
        "rank": rank,
        "alpha": alpha,
        "arithmetic": dtype.value,
        "memory": f"{measured.memory / 1e9:.2f} GB, and activations",
        **left_out,
    }
    emit(records(tables.correlations(figures, levels)), meta | tops, format, table)


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
    """How far a run moved its predictions (KL) and weights, its Fisher norm, and what bf16 storage hides."""
    from scramble.measures.curvature import gates as tables
    from scramble.measures.geometry.matrices import Selection
    from scramble.measures.pairs.ends import open_run

    levels, text = levels_of(by), _needed(prompts)
    opened = [open_run(run) for run in runs]
    left_out = said_left_out(opened)
    chosen = Selection(layers, modules.split(",") if modules else (), embeddings)
    with counter("measuring updates", quiet) as progress:
        counts = tables.norms(opened, chosen, progress)
    with counter("comparing predictions", quiet) as progress:
        leashes = tables.leash(
            opened,
            text,
            length=length,
            most=sequences,
            dtype=dtype,
            device=device,
            progress=progress,
        )
    if plot:
        from scramble.measures.curvature.figures import gates_figure

        save_figure(gates_figure(counts, leashes), plot)
    meta = {
        "start": ", ".join(dict.fromkeys(str(run.start.folder) for run in opened)),
        "sequences": int(leashes["sequences"].min()),
        "tokens": int(leashes["tokens"].min()),
        "arithmetic": dtype.value,
        **left_out,
    }
    found = tables.gates(counts, leashes, levels)
    found["run"] = [opened[number - 1].name for number in found["run"]]
    emit(records(found), meta, format, table)


def _needed(prompts: Path | None) -> Path:
    if prompts is None:
        raise SelectionError("--prompts FILE is needed: a text that training did not see")
    return prompts
