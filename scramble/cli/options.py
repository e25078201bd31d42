"""The options that commands share, and what their values are checked for before anything is computed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from scramble.present.table import Format, check_table

RUN_HELP = r"Two checkpoints, folders or hub ids (\: for a colon in a path), or a run folder."


def _checked_table(path: Path | None) -> Path | None:
    if path is not None:
        check_table(path)
    return path


def _checked_plot(path: Path | None) -> Path | None:
    if path is not None:
        from scramble.present.plots import check_target

        check_target(path)
    return path


def _quieten(asked: bool) -> bool:
    """huggingface_hub has bars of its own, and reads this when it is imported."""
    if asked:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    return asked


FormatOption = Annotated[Format, typer.Option("--format", help="How the result is printed.")]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress on standard error.", callback=_quieten)
]
TableOption = Annotated[
    Path | None,
    typer.Option(
        "--table", help="Write the rows into this .csv, .json or .parquet file too.", callback=_checked_table
    ),
]
PlotOption = Annotated[
    Path | None,
    typer.Option("--plot", help="Draw the figure into this .svg or .png file.", callback=_checked_plot),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace an existing target.")]
OutOption = Annotated[Path | None, typer.Option("--out", "-o", help="Folder to write.")]
RunArgument = Annotated[str, typer.Argument(metavar="START:END", help=RUN_HELP)]
RunsArgument = Annotated[
    list[str], typer.Argument(metavar="START:END...", help=f"Two or more, each: {RUN_HELP}")
]
ByOption = Annotated[
    str, typer.Option(help="Levels, comma-separated: model, tower, module, layer, layer-module, tensor.")
]
LayersOption = Annotated[str | None, typer.Option(help="20,25 or 4-8 or -1 or all.")]
ModulesOption = Annotated[
    str | None, typer.Option(help="Modules, comma-separated, as q_proj,o_proj. Default: all.")
]
EmbeddingsOption = Annotated[
    bool, typer.Option("--embeddings", help="Embeddings and output heads too; slow, they are large.")
]
EtaOption = Annotated[
    float,
    typer.Option(
        min=0.0,
        help="A weight is changed if it moved by more than this fraction of its size; 0: if bits differ.",
    ),
]
BaseOption = Annotated[
    Path | None, typer.Option(help="What was scrambled, if it is not where the manifest says.")
]
