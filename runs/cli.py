"""`scramble run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scramble.printing import Format, FormatOption, QuietOption, counter, emit


def commands(app: typer.Typer) -> None:
    app.command()(run)


def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe (YAML).")],
    seed: Annotated[int | None, typer.Option(help="In place of the recipe's.")] = None,
    model: Annotated[str | None, typer.Option(help="In place of the recipe's.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder that holds run folders.")] = Path(
        "runs-out"
    ),
    threads: Annotated[int | None, typer.Option(min=1, help="All cores by default.")] = None,
    format: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """Train once by a recipe. A finished run is not run again."""
    from runs.recipe import read_recipe
    from runs.run import run as carry_out
    from runs.summary import first_and_last

    parsed = read_recipe(recipe, seed=seed, model=model)
    with counter(parsed.name, quiet) as bar:
        folder = carry_out(
            parsed, out, threads=threads, progress=lambda step, steps, metrics: bar(step, steps)
        )
    metrics, record = folder.metrics, folder.record
    row = {
        "run": str(folder.path),
        "status": folder.status,
        "seed": parsed.seed,
        "steps": record["end"]["step"],
        **first_and_last(metrics),
        "seconds": record.get("seconds"),
        "end_hash": record["end"]["hash"],
    }
    emit([row], {}, format)
