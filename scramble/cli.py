"""The command line. Commands of `runs` and `interventions` join through the entry points `scramble.commands`.

Heavy imports happen inside the command that needs them.
"""

from __future__ import annotations

import csv
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from scramble import __version__
from scramble.errors import NotEquivalentError, ScrambleError

Row = Mapping[str, Any]

app = typer.Typer(
    help="Change a model's weights without changing its function; measure what training did to them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Format(StrEnum):
    """How a result is printed on standard output."""

    table = "table"
    json = "json"
    csv = "csv"


FormatOption = Annotated[Format, typer.Option("--format", help="How the result is printed.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on standard error.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace an existing target.")]
OutOption = Annotated[Path | None, typer.Option("--out", "-o", help="Folder to write.")]

_debug = False


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _global(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    global _debug
    _debug = debug


def reporter(quiet: bool) -> Callable[[str], None]:
    """Where progress goes: standard error, or nowhere."""
    return (lambda message: None) if quiet else (lambda message: typer.echo(message, err=True))


@contextmanager
def counter(what: str, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A progress bar with time left on standard error; yields `advance(done, total)`."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def emit(rows: Sequence[Row], meta: Mapping[str, Any], format: Format) -> None:
    """Print a result: rows under `rows` and `meta` beside them (JSON), or the rows alone (CSV, table)."""
    if format is Format.json:
        content = _finite({"meta": dict(meta), "rows": [dict(row) for row in rows]})
        json.dump(content, sys.stdout, indent=2, default=str, allow_nan=False)
        sys.stdout.write("\n")
    elif format is Format.csv:
        writer = csv.DictWriter(sys.stdout, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)
    else:
        _print_table(rows, meta)


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: null stands for them."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print_table(rows: Sequence[Row], meta: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 200)
    for key, value in meta.items():
        console.print(f"{key}: {_cell(value)}", highlight=False, markup=False, soft_wrap=True)
    if not rows:
        return
    table = Table(show_edge=False, box=None, pad_edge=False)
    for name in rows[0]:
        numeric = all(isinstance(row[name], int | float | None) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    console.print(table, highlight=False, markup=False)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.2e}"
    return str(value)


@app.command()
def apply(
    model: Annotated[str, typer.Argument(help="A checkpoint folder, or a hub id org/name@revision.")],
    layers: Annotated[str | None, typer.Option(help="20,25 or 4-8 or -1 or all.")] = None,
    symmetry: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME[:option=value,layers=20]; repeat to compose. Default: vo-rotation, head-permutation."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Names the draw.")] = 0,
    out: OutOption = None,
    verify: Annotated[bool, typer.Option(help="Show equivalence before the target appears.")] = True,
    hash: Annotated[
        str, typer.Option(help="What the manifest's hash of the source covers: touched or full.")
    ] = "touched",
    force: ForceOption = False,
    format: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """Scramble layers of MODEL without changing its function."""
    _one_blas_thread()
    from scramble.apply import apply as scramble_apply
    from scramble.checkpoints import locate
    from scramble.errors import SelectionError
    from scramble.selection import DEFAULT_SYMMETRIES

    if hash not in ("touched", "full"):
        raise SelectionError(f"--hash {hash}: touched or full")
    source = locate(model)
    target = out or default_target(model, source, "scrambled")
    manifest = scramble_apply(
        source,
        target,
        layers=layers,
        symmetries=symmetry or DEFAULT_SYMMETRIES,
        seed=seed,
        check=verify,
        force=force,
        full_hash=hash == "full",
        report=reporter(quiet),
    )
    done = manifest.scrambles[-1]
    rows = [{"tensor": name, **record.model_dump()} for name, record in done.tensors.items()]
    meta = {"out": str(target), "seed": seed, **_verdict(done.equivalence)}
    if format is Format.table:
        rows = [{key: row[key] for key in ("tensor", "dtype", "rounding_error")} for row in rows]
    emit(rows, meta, format)


def _one_blas_thread() -> None:
    """Matrices are small, and threads inside each product or QR mostly wait for one another.

    numpy's OpenBLAS reads this once, when numpy is imported.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _verdict(equivalence: Any) -> dict[str, Any]:
    return {"verdict": "not verified"} if equivalence is None else equivalence.model_dump()


def default_target(model: str, source: Path, suffix: str) -> Path:
    """Beside a folder; in the working folder for a hub id."""
    if Path(model).is_dir():
        return source.with_name(f"{source.name}-{suffix}")
    return Path.cwd() / f"{model.split('@')[0].rsplit('/', 1)[-1]}-{suffix}"


@app.command()
def invert(
    model: Annotated[
        str, typer.Argument(help="A scrambled checkpoint, or one trained from a scrambled start.")
    ],
    out: OutOption = None,
    manifest: Annotated[
        Path | None, typer.Option(help="The folder whose scramble.json to undo, if MODEL has none.")
    ] = None,
    force: ForceOption = False,
    format: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """Undo the scrambles of MODEL: back to the frame of its base."""
    _one_blas_thread()
    from scramble.checkpoints import locate
    from scramble.invert import invert as scramble_invert

    source = locate(model)
    target = out or default_target(model, source, "inverted")
    names = scramble_invert(source, target, manifest=manifest, force=force)
    emit([{"tensor": name} for name in names], {"out": str(target)}, format)


@app.command()
def fold(
    model: Annotated[str, typer.Argument(help="A checkpoint folder, or a hub id org/name@revision.")],
    out: OutOption = None,
    verify: Annotated[bool, typer.Option(help="Show equivalence before the target appears.")] = True,
    force: ForceOption = False,
    format: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """Move norm gains into the weights that read them: the base that residual-rotation needs."""
    from scramble.checkpoints import locate
    from scramble.fold import fold as scramble_fold

    source = locate(model)
    target = out or default_target(model, source, "folded")
    done = scramble_fold(source, target, check=verify, force=force, report=reporter(quiet)).fold
    assert done is not None
    rows = [{"tensor": name, **record.model_dump()} for name, record in done.tensors.items()]
    if format is Format.table:
        rows = [{key: row[key] for key in ("tensor", "dtype", "rounding_error")} for row in rows]
    emit(rows, {"out": str(target), **_verdict(done.equivalence)}, format)


@app.command()
def verify(
    base: Annotated[str, typer.Argument(help="The checkpoint that was scrambled.")],
    model: Annotated[str, typer.Argument(help="The scrambled checkpoint.")],
    format: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """Show that two checkpoints compute one function. Exit code 0 equivalent, 1 not, 2 could not tell."""
    from scramble.checkpoints import locate
    from scramble.verify import STORAGE_FACTOR
    from scramble.verify import verify as scramble_verify

    found = scramble_verify(locate(base), locate(model))
    checks: list[tuple[str, float | None, float | None]] = [
        ("algebra", found.algebra_error, found.algebra_bound),
        ("weights_off", found.weights_off, 0),
        ("storage", found.storage_error, STORAGE_FACTOR * found.noise_floor),
    ]
    rows = [
        {"check": name, "value": value, "bound": bound, "passed": value <= bound}
        for name, value, bound in checks
        if value is not None and bound is not None
    ]
    meta = found.model_dump()
    if found.algebra_error is None:
        meta["note"] = "no manifest in MODEL that starts from BASE: the algebra could not be checked"
    emit(rows, meta, format)
    raise typer.Exit(0 if found.verdict == "equivalent" else 1)


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="A checkpoint folder or a hub id.")],
    format: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """Family, layers and axes of MODEL; which symmetries apply, and why the others do not."""
    from scramble.checkpoints import locate
    from scramble.inspection import inspect as scramble_inspect

    rows, meta = scramble_inspect(locate(model))
    emit(rows, meta, format)


def fail(message: str, code: int = 2) -> NoReturn:
    """One line on standard error, and an exit code."""
    print("scramble: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(code)


def main() -> None:
    """Entry point: errors of the user's are one line and exit code 2; tracebacks only with --debug."""
    for entry in sorted(entry_points(group="scramble.commands"), key=lambda entry: entry.name):
        entry.load()(app)
    try:
        app()
    except NotEquivalentError as error:
        fail(str(error), 1)
    except ScrambleError as error:
        if _debug:
            raise
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted; nothing half-written is left", 130)
    except BrokenPipeError:
        raise SystemExit(0) from None
    except Exception as error:
        if _debug:
            raise
        fail(f"unexpected {type(error).__name__}: {error} (a bug; --debug shows where)")
