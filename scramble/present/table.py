"""One result, in every form: in the terminal, as JSON, CSV or Parquet."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scramble.errors import TargetError, install
from scramble.files import whole, write_whole
from scramble.present.progress import reporter

if TYPE_CHECKING:
    import pandas

Row = Mapping[str, Any]


class Format(StrEnum):
    """How a result is printed on standard output."""

    table = "table"
    json = "json"
    csv = "csv"


def check_table(path: Path) -> None:
    """Before anything is computed.

    Raises:
        TargetError: not a .csv, .json or .parquet file, or its folder is missing.
    """
    if path.suffix not in (".csv", ".json", ".parquet"):
        raise TargetError(f"{path}: a table is written as .csv, .json or .parquet")
    if not path.parent.is_dir():
        raise TargetError(f"{path}: its folder {path.parent} does not exist")


def emit(
    rows: pandas.DataFrame | Sequence[Row],
    meta: Mapping[str, Any],
    format: Format,
    table: Path | None = None,
    *,
    details: Sequence[str] = (),
) -> None:
    """Print a result: rows under `rows` and `meta` beside them (JSON), or the rows alone (CSV, table).

    Args:
        rows: a measure's data frame, which brings a `meta` of its own, or rows.
        table: a file that the same rows are written into, in the format of its name.
        details: columns that a printed table leaves to the other formats.
    """
    if not isinstance(rows, Sequence):
        meta = {**rows.attrs.get("meta", {}), **meta}
        rows = records(rows)
    if table:
        _write_table(rows, meta, table)
    if format is Format.json:
        sys.stdout.write(_json(rows, meta))
    elif format is Format.csv:
        sys.stdout.write(_csv(rows))
    else:
        hidden = [name for name in details if rows and name in rows[0]]
        shown = [{name: value for name, value in row.items() if name not in hidden} for row in rows]
        more = {"also in csv and json": ", ".join(hidden)} if hidden else {}
        _print_table(shown, {**meta, **more})


def caution(meta: Mapping[str, Any], format: Format, quiet: bool) -> dict[str, Any]:
    """Entries of `meta` that must not be missed, without those that are None.

    They go to standard error too, unless a printed table shows them.
    """
    said = {name: text for name, text in meta.items() if text is not None}
    if format is not Format.table:
        for name, text in said.items():
            reporter(not quiet)(f"{name}: {text}")
    return said


def records(table: pandas.DataFrame) -> list[dict[str, Any]]:
    """Rows of a data frame with None for what is missing."""
    import pandas

    return [
        {str(name): None if pandas.isna(value) else value for name, value in row.items()}
        for row in table.astype(object).to_dict("records")
    ]


def _write_table(rows: Sequence[Row], meta: Mapping[str, Any], path: Path) -> None:
    try:
        if path.suffix == ".parquet":
            import pandas

            frame = pandas.DataFrame([dict(row) for row in rows])
            frame.attrs = {name: str(value) for name, value in meta.items()}
            with whole(path) as partial:
                frame.to_parquet(partial, index=False)
        else:
            write_whole(path, _csv(rows) if path.suffix == ".csv" else _json(rows, meta))
    except ImportError:
        raise TargetError(f"{path}: Parquet needs pyarrow: {install('parquet')}") from None
    except OSError as error:
        raise TargetError(f"{path}: cannot be written ({error.strerror})") from None


def _json(rows: Sequence[Row], meta: Mapping[str, Any]) -> str:
    content = _finite({"meta": dict(meta), "rows": [dict(row) for row in rows]})
    return json.dumps(content, indent=2, default=str, allow_nan=False) + "\n"


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]) if rows else [])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


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
    rows, runs = _numbered_runs(rows)
    for key, value in {**meta, **runs}.items():
        console.print(f"{key}: {_cell(value)}", highlight=False, markup=False, soft_wrap=True)
    names = [name for name in (rows[0] if rows else {}) if any(row[name] is not None for row in rows)]
    if not names:
        return
    table = Table(show_edge=False, box=None, pad_edge=False)
    for name in names:
        numeric = all(isinstance(row[name], int | float | None) for row in rows)
        # Long names break at their underscores, never inside a word.
        heading = name.replace("_", "_\n") if len(names) > 12 else name
        table.add_column(
            heading, justify="right" if numeric else "left", overflow="fold", no_wrap=numeric, min_width=4
        )
    for row in rows:
        table.add_row(*(_cell(row[name]) for name in names))
    console.print(table, highlight=False, markup=False)


def _numbered_runs(rows: Sequence[Row]) -> tuple[Sequence[Row], dict[str, str]]:
    """Runs by number, where there are several, and what the numbers stand for; for reading only."""
    columns = [name for name in (rows[0] if rows else {}) if name in ("run", "run_a", "run_b")]
    runs = list(dict.fromkeys(str(row[name]) for name in columns for row in rows))
    if len(runs) < 2:
        return rows, {}
    numbers = {run: str(number) for number, run in enumerate(runs, 1)}
    found = [{**row, **{name: numbers[str(row[name])] for name in columns}} for row in rows]
    return found, {f"run {number}": run for run, number in numbers.items()}


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}" if 0.1 <= abs(value) < 1e4 else f"{value:.3g}"
    return str(value)
