"""`scramble gates` and `scramble curvature`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from scramble.errors import SelectionError
from scramble.geometry.cli import EmbeddingsOption, LayersOption, ModulesOption, PlotOption
from scramble.printing import Format, FormatOption, QuietOption, TableOption, counter, emit, records
from scramble.updates.cli import ByOption, levels_of


class Dtype(StrEnum):
    """Of the model that is run."""

    float32 = "float32"
    float64 = "float64"


PromptsOption = Annotated[Path | None, typer.Option(help="A text file to run on; needed.")]
LengthOption = Annotated[int, typer.Option(min=2, help="Tokens of a sequence of the prompts.")]
SequencesOption = Annotated[int, typer.Option(min=1, help="How many sequences of the prompts at most.")]
DtypeOption = Annotated[Dtype, typer.Option(help="Of the model that is run.")]
DeviceOption = Annotated[
    str | None, typer.Option(help="Where the model runs, as cuda or cpu; a GPU if there is one.")
]


def commands(app: typer.Typer) -> None:
    app.command()(gates)


def gates(
    runs: Annotated[
        list[str], typer.Argument(metavar="START:END...", help="Runs, or checkpoints of one run.")
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
    from scramble.curvature import gates as tables
    from scramble.geometry.matrices import Selection
    from scramble.plots import check_target, save
    from scramble.updates.ends import open_run

    levels, text = levels_of(by), _needed(prompts)
    if plot:
        check_target(plot)
    opened = [open_run(run) for run in runs]
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
        from scramble.curvature.figures import gates_figure

        save(gates_figure(counts, leashes), plot)
    meta = {
        **{f"run {number}": f"{run.start.folder}:{run.name}" for number, run in enumerate(opened, 1)},
        "sequences": int(leashes["sequences"].min()),
        "tokens": int(leashes["tokens"].min()),
        "arithmetic": str(dtype),
    }
    emit(records(tables.gates(counts, leashes, levels)), meta, format, table)


def _needed(prompts: Path | None) -> Path:
    if prompts is None:
        raise SelectionError("--prompts FILE is needed: a text that training did not see")
    return prompts
