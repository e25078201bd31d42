"""How the commands of measures are made and how they end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from scramble.columns import help_text
from scramble.present.table import Format, emit

if TYPE_CHECKING:
    import pandas

# Names on standard error; a result's meta has them all.
_SHOWN = 4


def measure(app: typer.Typer, command: Callable[..., None], *tables: str) -> None:
    """Add a command whose help ends with the columns of its tables."""
    app.command(epilog=help_text(*tables))(command)


def show(
    found: pandas.DataFrame, format: Format, table: Path | None = None, *, details: Sequence[str] = ()
) -> None:
    """Print a measure's result, and say in one line on standard error what was left out."""
    if out := found.attrs["left_out"]:
        shown = [f"{name} ({why})" for name, why in sorted(out.items())[:_SHOWN]]
        more = f" and {len(out) - _SHOWN} more" if len(out) > _SHOWN else ""
        print(f"scramble: left out ({len(out)}): {'; '.join(shown)}{more}", file=sys.stderr)
    emit(found, {}, format, table, details=details)
