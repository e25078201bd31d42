"""The look of every figure, and how one is written: readable in print and for colour-blind readers."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scramble.errors import TargetError
from scramble.files import whole, write_whole

# Okabe and Ito's palette, readable for colour-blind readers; markers tell the lines apart in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "scramble"}


def whole_numbers() -> MaxNLocator:
    """Ticks at whole numbers only, also where an axis has one value."""
    return MaxNLocator(integer=True, min_n_ticks=1)


def svg(figure: Figure) -> str:
    """The figure as an `<svg>` element without head and metadata, so that it is the same each time."""
    text = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    content = text.getvalue()
    return content[content.index("<svg") :]


def check_target(path: Path) -> None:
    """Before anything is computed.

    Raises:
        TargetError: not an SVG or PNG file, or its folder is missing.
    """
    if path.suffix not in (".svg", ".png"):
        raise TargetError(f"{path}: a figure is written as .svg or .png")
    if not path.parent.is_dir():
        raise TargetError(f"{path}: its folder {path.parent} does not exist")


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as SVG or PNG, by the file's name; an existing file is replaced.

    Raises:
        TargetError: not an SVG or PNG file, or it cannot be written.
    """
    path = Path(path)
    check_target(path)
    try:
        if path.suffix == ".svg":
            write_whole(path, svg(figure))
        else:
            with whole(path) as partial, matplotlib.rc_context(STYLE):
                figure.savefig(partial, format="png", dpi=150)
    except OSError as error:
        raise TargetError(f"{path}: cannot be written ({error.strerror})") from None


def write_both(figure: Figure, path: Path) -> None:
    """Write `path.svg` and `path.png`."""
    for suffix in ("svg", "png"):
        save(figure, path.with_name(f"{path.name}.{suffix}"))
