"""What a figure shows, as numbers: the data of its artists."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

Line = tuple[list[float], list[float]]


def keep(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that commands write from now on; they are written all the same."""
    from scramble.present import plots

    found: list[Figure] = []
    save = plots.save

    def kept(figure: Figure, path: Any) -> None:
        found.append(figure)
        save(figure, path)

    monkeypatch.setattr(plots, "save", kept)
    return found


def lines(ax: Any) -> list[Line]:
    """Every line with points, in the order of drawing; those that are only in the legend left out."""
    drawn = [(list(map(float, one.get_xdata())), list(map(float, one.get_ydata()))) for one in ax.get_lines()]
    return [one for one in drawn if one[0]]


def labelled(ax: Any) -> dict[str, Line]:
    """The lines that the legend names."""
    return {
        str(one.get_label()): (list(map(float, one.get_xdata())), list(map(float, one.get_ydata())))
        for one in ax.get_lines()
        if not str(one.get_label()).startswith("_") and len(one.get_xdata())
    }


def marks(ax: Any) -> list[Line]:
    """The level and vertical strokes (`hlines`, `vlines`): x and y of the two ends of each, by call."""
    return [
        (
            np.asarray(one.get_segments())[..., 0].ravel().tolist(),
            np.asarray(one.get_segments())[..., 1].ravel().tolist(),
        )
        for one in ax.collections
        if isinstance(one, LineCollection)
    ]


def bars(ax: Any) -> list[tuple[list[float], list[float], list[float]]]:
    """Middles, bottoms and heights of bars, a tuple for each call of `bar`."""
    return [
        tuple(  # type: ignore[misc]
            [value(one) for one in group]
            for value in (
                lambda bar: bar.get_x() + bar.get_width() / 2,
                lambda bar: bar.get_y(),
                lambda bar: bar.get_height(),
            )
        )
        for group in ax.containers
    ]


def ticks(ax: Any) -> list[str]:
    """The names along the horizontal axis."""
    return [one.get_text() for one in ax.get_xticklabels()]


def same(drawn: Any, table: Any) -> None:
    """Equal to the last digit but one, and missing in the same places."""
    np.testing.assert_allclose(
        np.asarray(drawn, dtype=float),
        np.asarray(list(table), dtype=float),
        rtol=1e-12,
        atol=0,
        equal_nan=True,
    )
