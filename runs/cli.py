"""`scramble run` and `scramble runs list|show|compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scramble.cli.options import FormatOption, QuietOption, TableOption
from scramble.errors import SelectionError, TargetError
from scramble.present.progress import counter
from scramble.present.table import Format, caution, emit, records

runs = typer.Typer(help="Run folders: list, show, compare.", no_args_is_help=True)

# Metrics that a line of progress shows, by their names in metrics.jsonl.
_SHOWN = {"reward": "reward {:.3f}", "loss": "loss {:.3g}", "kl": "KL {:.3g}"}
_SHOWN |= {"tokens_per_second": "{:.0f} tokens/s"}


def _made(folder: Path | None) -> Path | None:
    """Before anything is computed."""
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TargetError(f"{folder}: cannot be a folder for a report ({error.strerror})") from None
    return folder


def commands(app: typer.Typer) -> None:
    app.command()(run)
    app.command()(organism)
    app.add_typer(runs, name="runs")


def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe (YAML).")],
    seed: Annotated[int | None, typer.Option(help="In place of the recipe's.")] = None,
    model: Annotated[str | None, typer.Option(help="In place of the recipe's.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of the run folders.")] = Path(
        "runs-out"
    ),
    threads: Annotated[int | None, typer.Option(min=1, help="All cores by default.")] = None,
    format: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """Train once by a recipe. A finished run is not run again."""
    from scramble.runs.engine.run import run as carry_out
    from scramble.runs.recipe.recipe import read_recipe
    from scramble.runs.records.summary import before_and_after, first_and_last, stood_still

    parsed = read_recipe(recipe, seed=seed, model=model)
    with counter(parsed.name, not quiet) as bar:
        folder = carry_out(
            parsed,
            out,
            threads=threads,
            progress=lambda step, steps, metrics: bar(step, steps, progress_text(metrics)),
        )
    metrics, record = folder.metrics, folder.finished
    row = {
        "run": str(folder.path),
        "status": folder.status,
        "seed": parsed.seed,
        "steps": record.end.step,
        **first_and_last(metrics),
        **(before_and_after(record.evaluation, record.end.step) if parsed.evaluation else {}),
        "seconds": record.seconds,
        "end_hash": record.end.hash,
    }
    emit([row], caution({"caution": stood_still(metrics)}, format, quiet), format)


def organism(
    settings: Annotated[
        Path | None, typer.Argument(help="Its settings (YAML): family, sizes, task, optimizer, steps.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")] = Path("organism"),
    family: Annotated[str | None, typer.Option(help="In place of the settings'.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="In place of the settings'.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="In place of the settings'.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="All cores by default.")] = None,
    force: Annotated[bool, typer.Option(help="Replace the folder.")] = False,
    format: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """Pre-train a small model (2.4M weights, sums) on which RLVR learns in minutes; done once, and cached."""
    from scramble.runs.organism import organism as make
    from scramble.runs.organism import read_organism

    asked = read_organism(settings, family=family, steps=steps, seed=seed)
    with counter(f"{asked.family} organism", not quiet) as bar:
        found = make(
            asked,
            out,
            threads=threads,
            force=force,
            progress=lambda step, steps, metrics: bar(step, steps, progress_text(metrics)),
        )
    row = {"out": str(out), "family": asked.family, "steps": asked.steps, "seed": asked.seed, **found}
    del row["organism"]
    emit([row], {}, format)


@runs.command(name="list")
def list_(
    out: Annotated[Path, typer.Argument(help="The folder of the run folders.")] = Path("runs-out"),
    table: TableOption = None,
    format: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """One line for each run: what it trained, its steps, reward or loss. Damaged folders are marked."""
    from scramble.runs.records.records import list_runs

    emit(list_runs(out), {"out": str(out)}, format, table)


@runs.command()
def show(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    format: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """All of one run: recipe, seeds, versions, evaluation, last metrics, checkpoints."""
    from scramble.runs.records.records import show_run

    found = show_run(run)
    if format is Format.json:
        emit([found], {}, format)
    else:
        emit([{"key": key, "value": value} for key, value in flat(found)], {}, format)


@runs.command()
def compare(
    run: Annotated[list[Path], typer.Argument(help="Finished run folders.")],
    report: Annotated[
        Path | None,
        typer.Option(help="Write a page, its figures and tables into this folder.", callback=_made),
    ] = None,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "comparison",
    rank: Annotated[int, typer.Option(min=1, help="Rank of the subspaces whose angles are measured.")] = 512,
    principal_rank: Annotated[int, typer.Option(min=1, help="Rank of the principal mask.")] = 64,
    alpha: Annotated[float, typer.Option(help="Fraction of a matrix that the principal mask takes.")] = 0.5,
    table: TableOption = None,
    format: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """Compare runs: reward, KL, norm and sparsity of the update, spectra, principal weights."""
    from scramble.runs.comparison.compare import compare as carry_out

    if not 0 < alpha < 1:
        raise SelectionError(f"--alpha {alpha:g}: a fraction of the weights must be above 0 and below 1")
    with counter("decomposing matrices", not quiet) as bar:
        found = carry_out(run, rank, principal_rank, alpha, bar)
    meta = caution({"toolchains": found.toolchains}, format, quiet)
    if report:
        from scramble.runs.comparison.report import write_report

        meta |= {"report": str(write_report(found, report, title))}
    emit(records(found.runs), meta, format, table)


def progress_text(metrics: dict[str, Any]) -> str:
    """Reward, KL and tokens a second, as far as they are measured."""
    return "  ".join(text.format(metrics[name]) for name, text in _SHOWN.items() if name in metrics)


def flat(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """Leaves of nested mappings and lists of mappings, their names joined by dots."""
    if isinstance(value, dict) and value:
        return [
            leaf for key, one in value.items() for leaf in flat(one, f"{name}.{key}" if name else str(key))
        ]
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        return [leaf for place, one in enumerate(value) for leaf in flat(one, f"{name}.{place}")]
    shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
    return [(name, None if shown in ("", {}) else shown)]
