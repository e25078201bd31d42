"""`scramble diff` and `scramble overlap`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scramble.errors import ManifestError, SelectionError
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

if TYPE_CHECKING:
    from scramble.measures.pairs.ends import Run

# Names on standard error; a result's meta has them all.
_SHOWN = 4

RUN_HELP = r"The two ends of a run, folders or hub ids; write \: for a colon in a path."
RunArgument = Annotated[str, typer.Argument(metavar="START:END", help=RUN_HELP)]
RunsArgument = Annotated[
    list[str], typer.Argument(metavar="START:END...", help=f"Two runs or more. {RUN_HELP}")
]

ByOption = Annotated[
    str, typer.Option(help="Levels, comma-separated: model, tower, module, layer, layer-module, tensor.")
]

EtaOption = Annotated[
    float,
    typer.Option(
        min=0.0, help="Count as changed what moved by more than this share of its size; 0: whose bits differ."
    ),
]

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
    app.command()(diff)
    app.command()(overlap)


def diff(
    run: RunArgument,
    by: ByOption = "model,module,layer",
    eta: EtaOption = 0.0,
    plot: PlotOption = None,
    table: TableOption = None,
    format: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """Which weights a run changed: sparsity of its bf16 update by tensor, module and layer."""
    from scramble.measures.pairs.ends import open_run
    from scramble.measures.updates.tables import count_updates
    from scramble.measures.updates.tables import diff as scramble_diff

    levels = levels_of(by)
    opened = open_run(run)
    left_out = said_left_out([opened])
    with counter("counting changes", quiet) as progress:
        counts = count_updates(opened, progress, eta=eta)
    if plot:
        from scramble.measures.updates.figures import diff_figure

        save_figure(diff_figure(counts), plot)
    meta = {"start": str(opened.start.folder), "end": str(opened.end.folder)} | _rule(eta) | left_out
    emit(records(scramble_diff(counts, levels)), meta, format, table)


def overlap(
    runs: RunsArgument,
    by: ByOption = "model,module,layer",
    frame: Annotated[
        str,
        typer.Option(
            help="raw, aligned (scrambles undone before comparing), or both. After a rotation any update's "
            "overlap returns: compare with rounding_only of that frame."
        ),
    ] = "both",
    base: Annotated[
        Path | None, typer.Option(help="What was scrambled, if it is not where the manifest says.")
    ] = None,
    row_column: Annotated[
        bool, typer.Option(help="Fit change rates by row and column too: a second, slower pass.")
    ] = False,
    decompose: Annotated[
        bool, typer.Option(help="What the overlap above chance is made of (with --row-column).")
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
    """How far the updates of runs overlap, pair by pair, beside what chance and magnitude alone give."""
    from scramble.measures.pairs.ends import FRAMES, open_run
    from scramble.measures.updates.tables import count_pairs, decomposed, mean_pairs
    from scramble.measures.updates.tables import overlap as scramble_overlap

    levels = levels_of(by)
    if len(runs) < 2:
        raise SelectionError("overlap needs two runs or more, each START:END")
    frames = [one for one in FRAMES if frame in (one, "both")]
    if not frames:
        raise SelectionError(f"--frame {frame}: raw, aligned or both")
    opened = [open_run(run, aligned="aligned" in frames, base=base) for run in runs]
    left_out = said_left_out(opened)
    undone = [run.name for run in opened if run.undo]
    if frame == "aligned" and not undone:
        raise ManifestError("no START carries a scramble.json, so there is nothing to align")
    if not undone:
        frames = ["raw"]
    with counter("comparing tensors", quiet) as progress:
        counts = count_pairs(opened, frames, progress, row_column=row_column or decompose, eta=eta)
    found = (decomposed if decompose else scramble_overlap)(counts, levels)
    if mean:
        found = mean_pairs(found)
    if plot:
        from scramble.measures.updates import figures

        save_figure((figures.decomposition_figure if decompose else figures.overlap_figure)(counts), plot)
    bf16 = sorted(run.name for run in opened if run.end.storage(run.tensors[0]).name == "BF16")
    meta = {
        "runs": len(opened),
        "aligned": ", ".join(undone) or "none: no START carries a scramble.json",
        "updates_from_bf16_ends": ", ".join(bf16) or "none",
        **_rule(eta),
        **left_out,
    }
    emit(records(found), meta, format, table, details=DETAILS)


def said_left_out(runs: Sequence[Run]) -> dict[str, str]:
    """What is no weight or is not read, named: for a result's meta, and as one line on standard error."""
    out = {name: why for run in runs for end in (run.start, run.end) for name, why in end.left_out.items()}
    if not out:
        return {}
    told = "; ".join(f"{name} ({why})" for name, why in sorted(out.items()))
    shown = [f"{name} ({why})" for name, why in sorted(out.items())[:_SHOWN]]
    more = f" and {len(out) - _SHOWN} more" if len(out) > _SHOWN else ""
    print(f"scramble: left out ({len(out)}): {'; '.join(shown)}{more}", file=sys.stderr)
    return {"left_out": told}


def _rule(eta: float) -> dict[str, str]:
    return {"changed": f"|w+ - w0| > {eta:g} max(|w+|, |w0|)"} if eta else {}


def levels_of(by: str) -> list[str]:
    """The levels of `--by`.

    Raises:
        SelectionError: not a level.
    """
    from scramble.measures.pairs.pooling import LEVELS

    levels = by.split(",")
    if unknown := [level for level in levels if level not in LEVELS]:
        raise SelectionError(f"--by {by}: '{unknown[0]}' is not one of {', '.join(LEVELS)}")
    return levels
