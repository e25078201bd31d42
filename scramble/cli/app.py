"""The command line. Commands of `runs` and `interventions` join through the entry points `scramble.commands`.

Heavy imports happen inside the command that needs them.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

import scramble
from scramble._version import __version__
from scramble.cli.options import ForceOption, FormatOption, OutOption, QuietOption
from scramble.columns import help_text
from scramble.errors import NotEquivalentError, ScrambleError, one_line
from scramble.present.table import Format, emit

app = typer.Typer(
    help="Change a model's weights without changing its function; measure what training did to them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class By(StrEnum):
    """What the rows of `verify` are."""

    check = "check"
    layer = "layer"


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


@app.command(epilog=help_text("apply"))
def apply(
    model: Annotated[str, typer.Argument(help="A checkpoint folder, or a hub id org/name@revision.")],
    layers: Annotated[str | None, typer.Option(help="20,25 or 4-8 or -1 or all.")] = None,
    symmetry: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME[:option=value,layers=20]; repeat to compose. Default: vo-rotation, head-permutation."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    out: OutOption = None,
    verify: Annotated[bool, typer.Option(help="Verify equivalence before the target appears.")] = True,
    hash: Annotated[
        str, typer.Option(help="What the manifest's hash of the source covers: touched or full.")
    ] = "touched",
    device: Annotated[
        str | None, typer.Option(help="Where rotations are computed, as cuda; numpy without.")
    ] = None,
    force: ForceOption = False,
    format: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """Scramble layers of MODEL without changing its function."""
    from scramble.checkpoints import target_of
    from scramble.errors import SelectionError
    from scramble.transforms.selection import DEFAULT_SYMMETRIES

    if hash not in ("touched", "full"):
        raise SelectionError(f"--hash {hash}: touched or full")
    manifest = scramble.apply(
        model,
        out,
        layers=layers,
        symmetries=symmetry or DEFAULT_SYMMETRIES,
        seed=seed,
        check=verify,
        device=device,
        force=force,
        full_hash=hash == "full",
        progress=not quiet,
    )
    done = manifest.scrambles[-1]
    rows = [{"tensor": name, **record.model_dump()} for name, record in done.tensors.items()]
    meta = {"out": str(target_of(model, out, "scrambled")), "seed": seed, **_verdict(done.equivalence)}
    if format is Format.table:
        rows = [{key: row[key] for key in ("tensor", "dtype", "rounding_error")} for row in rows]
    emit(rows, meta, format)


def _verdict(equivalence: Any) -> dict[str, Any]:
    hidden = {"layers"}
    return {"verdict": "not verified"} if equivalence is None else equivalence.model_dump(exclude=hidden)


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
    from scramble.checkpoints import target_of

    names = scramble.invert(model, out, manifest=manifest, force=force)
    emit([{"tensor": name} for name in names], {"out": str(target_of(model, out, "inverted"))}, format)


@app.command(epilog=help_text("fold"))
def fold(
    model: Annotated[str, typer.Argument(help="A checkpoint folder, or a hub id org/name@revision.")],
    out: OutOption = None,
    verify: Annotated[bool, typer.Option(help="Verify equivalence before the target appears.")] = True,
    force: ForceOption = False,
    format: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """Move norm weights into the weights that read them: the base that residual-rotation needs."""
    from scramble.checkpoints import target_of

    done = scramble.fold(model, out, check=verify, force=force, progress=not quiet).fold
    assert done is not None
    rows = [{"tensor": name, **record.model_dump()} for name, record in done.tensors.items()]
    if format is Format.table:
        rows = [{key: row[key] for key in ("tensor", "dtype", "rounding_error")} for row in rows]
    emit(rows, {"out": str(target_of(model, out, "folded")), **_verdict(done.equivalence)}, format)


@app.command(epilog=help_text("verify", "verify --by layer"))
def verify(
    base: Annotated[str, typer.Argument(help="The checkpoint that was scrambled.")],
    model: Annotated[str, typer.Argument(help="The scrambled checkpoint.")],
    prompts: Annotated[
        Path | None, typer.Option(help="A text file to run on, instead of random tokens.")
    ] = None,
    by: Annotated[By, typer.Option(help="Rows: the checks, or errors layer by layer.")] = By.check,
    format: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """Show that two checkpoints compute one function. Exit code 0 equivalent, 1 not, 2 could not tell."""
    found = scramble.verify(base, model, prompts=prompts)
    rows = [one.model_dump() for one in found.layers] if by is By.layer else found.checks()
    meta = _verdict(found)
    if found.algebra_error is None:
        meta["note"] = "no manifest in MODEL that starts from BASE: the algebra could not be checked"
    emit(rows, meta, format)
    raise typer.Exit(0 if found.equivalent else 1)


@app.command(epilog=help_text("inspect"))
def inspect(
    model: Annotated[str, typer.Argument(help="A checkpoint folder or a hub id.")],
    format: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """Family, layers and axes of MODEL; which symmetries apply, and why the others do not."""
    emit(scramble.inspect(model), {}, format)


def fail(message: str, code: int = 2) -> NoReturn:
    """One line on standard error, and an exit code."""
    print("scramble: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(code)


@cache
def joined() -> typer.Typer:
    """The app with the commands of all packages, each once however often this process calls `main`."""
    for entry in sorted(entry_points(group="scramble.commands"), key=lambda entry: entry.name):
        entry.load()(app)
    return app


@cache
def command() -> Any:
    """What `main` calls. To make it takes longer than most commands that are refused."""
    return typer.main.get_command(joined())


def main() -> None:
    """Entry point: errors of the user's are one line and exit code 2; tracebacks only with --debug."""
    try:
        command()()
    except NotEquivalentError as error:
        fail(str(error), 1)
    except ScrambleError as error:
        if _debug:
            raise
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted; no half-written file remains", 130)
    except BrokenPipeError:
        raise SystemExit(0) from None
    except Exception as error:
        if _debug:
            raise
        fail(f"unexpected {one_line(error)} (a bug; --debug shows where)")
