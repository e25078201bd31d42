"""Progress on standard error: bars with the time left, in a terminal or a notebook."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[..., None]
"""`advance(done, total, text="")`."""
Lines = bool | None | Callable[[str], None]


def wanted(progress: bool | None) -> bool:
    """Whether bars are shown: as asked, or by default in a terminal and in a notebook."""
    return (sys.stderr.isatty() or _in_notebook()) if progress is None else progress


@contextmanager
def counter(what: str, progress: bool | None = None) -> Iterator[Advance]:
    """A progress bar with time left; yields `advance(done, total, text="")`.

    Args:
        progress: show it; by default in a terminal and in a notebook.
    """
    if not wanted(progress):
        yield lambda done, total, text="": None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    shown = TextColumn("{task.fields[text]}", markup=False)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), shown)
    console = Console(stderr=True)
    hidden = not (console.is_terminal or console.is_jupyter)
    with Progress(*columns, console=console, disable=hidden, transient=True) as bar:
        task = bar.add_task(what, total=None, text="")
        yield lambda done, total, text="": bar.update(task, completed=done, total=total, text=text)


def reporter(progress: Lines = None) -> Callable[[str], None]:
    """Where single lines of progress go: standard error, nowhere, or the function that is given."""
    if callable(progress):
        return progress
    if not wanted(progress):
        return lambda message: None
    return lambda message: print(message, file=sys.stderr)


def _in_notebook() -> bool:
    """Whether this process is a Jupyter kernel."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"
