"""A figure shows the numbers of the table that is printed beside it: its artists' data are these."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from tests import drawn
from tests.conftest import Command
from tests.scramble.measures import synthetic

PART_NAMES = ("rounding", "magnitude", "row_column", "coordinate")
BASELINES = ("chance", "rounding_only", "magnitude_matched")


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    """The synthetic runs, in the working folder, and the scrambled start of one of them."""
    monkeypatch.chdir(tmp_path)
    synthetic.write(tmp_path)
    assert command("apply", "base", *synthetic.SCRAMBLE, "--out", "scrambled", "--no-verify").code == 0


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    return drawn.keep(monkeypatch)


def asked(command: Command, *arguments: str, plot: bool = False) -> pd.DataFrame:
    """The rows that a command prints."""
    found = command(*arguments, *(("--plot", "figure.svg") if plot else ()), "--quiet", "--format", "json")
    assert found.code == 0, found.err
    return pd.DataFrame(found.json["rows"])


def level(table: pd.DataFrame, name: str) -> pd.DataFrame:
    rows = table[table["level"] == name]
    return rows.sort_values([key for key in ("layer", "module") if rows[key].notna().all()])


@pytest.mark.usefixtures("runs")
def test_diff_draws_its_table(figures: list[Figure], command: Command) -> None:
    table = asked(command, "diff", "base:a", "--by", "module,layer-module", plot=True)
    (left, right), lines = figures[0].axes, level(table, "layer-module").dropna(subset=["layer"])
    found = drawn.labelled(left)
    assert sorted(found) == sorted(set(lines["module"]))
    for module, (at, heights) in found.items():
        own = lines[lines["module"] == module]
        drawn.same(at, own["layer"])
        drawn.same(heights, 1 - own["sparsity"])
    modules = level(table, "module")
    ((_, _, heights),) = drawn.bars(right)
    assert drawn.ticks(right) == list(modules["module"])
    drawn.same(heights, 1 - modules["sparsity"])


@pytest.mark.usefixtures("runs")
def test_overlap_draws_its_table_and_its_pairs(figures: list[Figure], command: Command) -> None:
    three = ("base:a", "base:b", "scrambled:c")
    table = asked(command, "overlap", *three, "--by", "layer,module", "--mean", plot=True)
    layers = ("--layers", "0,1", "--by", "model")
    pairs = asked(command, "overlap", *three, *layers)
    axes = np.array(figures[0].axes[:6]).reshape(2, 3)
    for column, frame in enumerate(("raw", "aligned")):
        assert axes[0][column].get_title("left") == frame
        for ax, name in ((axes[0][column], "layer"), (axes[1][column], "module")):
            rows = level(table[table["frame"] == frame], name).dropna(subset=[name, "jaccard"])
            found = drawn.labelled(ax)
            shown = ["jaccard", *(one for one in BASELINES if rows[one].notna().any())]
            names = ["measured" if one == "jaccard" else one.replace("_", " ") for one in shown]
            assert list(found) == names
            for one, label in zip(shown, names, strict=True):
                drawn.same(found[label][0], rows["layer"] if name == "layer" else range(len(rows)))
                drawn.same(found[label][1], rows[one])
            if name == "module":
                assert drawn.ticks(ax) == list(rows["module"])
        image = np.ma.filled(axes[column][2].images[0].get_array().astype(float), np.nan)
        expected = np.full((3, 3), np.nan)
        here = pairs[(pairs["frame"] == frame) & (pairs["level"] == "model")]
        for (a, b), value in zip(((0, 1), (0, 2), (1, 2)), here["jaccard"], strict=True):
            expected[a, b] = expected[b, a] = value
        drawn.same(image, expected)


@pytest.mark.usefixtures("runs")
def test_a_decomposition_stacks_its_table(figures: list[Figure], command: Command) -> None:
    ask = ("overlap", "base:a", "base:b", "--decompose", "--by", "layer,module")
    table = asked(command, *ask, plot=True)
    for ax, name in zip(figures[0].axes, ("layer", "module"), strict=True):
        rows = level(table, name).dropna(subset=[name])
        up, down = np.zeros(len(rows)), np.zeros(len(rows))
        for part, (at, bottoms, heights) in zip(PART_NAMES, drawn.bars(ax), strict=True):
            expected = (rows[part].fillna(0) / rows["n"]).to_numpy()
            np.testing.assert_allclose(heights, expected, rtol=1e-9, atol=1e-15)
            np.testing.assert_allclose(bottoms, np.where(expected >= 0, up, down), rtol=1e-9, atol=1e-15)
            np.testing.assert_allclose(at, rows["layer"] if name == "layer" else range(len(rows)), atol=1e-12)
            up, down = up + np.maximum(expected, 0), down + np.minimum(expected, 0)


@pytest.mark.usefixtures("runs")
def test_spectra_draw_their_table_and_their_singular_values(figures: list[Figure], command: Command) -> None:
    ask = ("spectra", "base:a", "--rank", "4", "--by", "layer-module", "--values", "values.csv")
    table = asked(command, *ask, plot=True).dropna(subset=["layer"])
    modules = sorted(set(table["module"]))
    *panels, curves = figures[0].axes
    for ax, column in zip(panels, ("angle_left_max", "angle_right_max", "nss"), strict=True):
        found = drawn.labelled(ax)
        assert list(found) == modules
        for module, (at, heights) in found.items():
            rows = table[table["module"] == module].sort_values("layer")
            drawn.same(at, rows["layer"])
            drawn.same(heights, rows[column].where(rows[column] > 0))
    values = pd.read_csv("values.csv")
    tensors = [one for one in dict.fromkeys(values["tensor"]) if ".layers.1." in one]
    expected = []
    for tensor in tensors:
        own = values[values["tensor"] == tensor].sort_values("index")
        largest = own["sigma_start"].max()
        expected += [list(own["sigma_end"] / largest), list(own["sigma_start"] / largest)]
    assert [len(heights) for _, heights in drawn.lines(curves)] == [len(one) for one in expected]
    for (_, heights), one in zip(drawn.lines(curves), expected, strict=True):
        np.testing.assert_allclose(heights, one, rtol=1e-9)


@pytest.mark.usefixtures("runs")
def test_principal_draws_its_table(figures: list[Figure], command: Command) -> None:
    ask = ("principal", "base:a", "--rank", "4", "--alpha", "0.3", "--by", "layer,module")
    table = asked(command, *ask, plot=True)
    axes = np.array(figures[0].axes).reshape(2, 3)
    for column, mask in enumerate(("principal", "low_magnitude", "principal_not_low")):
        for ax, name in ((axes[0][column], "layer"), (axes[1][column], "module")):
            rows = level(table[table["mask"] == mask], name).dropna(subset=[name])
            found = drawn.lines(ax)
            columns = ["overlap_update", "chance_update", "magnitude_matched_update"]
            if name == "module":
                order = np.argsort(found[0][0])
                drawn.same(np.asarray(found[0][1])[order], rows["overlap_update"])
                for (_, heights), one in zip(drawn.marks(ax), columns[1:], strict=True):
                    drawn.same(np.asarray(heights).reshape(-1, 2)[order][:, 0], rows[one])
                continue
            for (at, heights), one in zip(found, columns, strict=True):
                drawn.same(at, rows["layer"])
                drawn.same(heights, rows[one])


@pytest.mark.usefixtures("runs")
def test_maps_have_the_tables_mean(figures: list[Figure], command: Command) -> None:
    """The cells' mean, each weighed by its area, is the share of the runs that changed a weight."""
    ask = ("consensus", "base:a", "base:b", "--layers", "1", "--by", "tensor")
    table = asked(command, *ask, plot=True)
    tensors = sorted(name for name in set(table["tensor"]) if "norm" not in name)
    images = [ax.images[0] for ax in figures[0].axes if ax.images]
    assert len(images) == len(tensors) == 7
    for image, tensor in zip(images, tensors, strict=True):
        rows = table[table["tensor"] == tensor]
        assert float(image.get_array().mean()) == pytest.approx(
            (rows["changed_by"] * rows["share"]).sum() / 2
        )


@pytest.mark.usefixtures("runs")
def test_rates_draw_their_profiles(figures: list[Figure], command: Command) -> None:
    """A line is the mean of each value and its neighbours in `--values`, by a slow definition."""
    chosen = ("--layers", "1", "--modules", "q_proj,down_proj", "--values", "values.csv")
    asked(command, "rates", "base:a", "base:b", *chosen, plot=True)
    values = pd.read_csv("values.csv")
    tensors = sorted(set(values["tensor"]))
    panels = [(tensor, side) for tensor in tensors for side in ("row", "column")]
    for ax, (tensor, side) in zip(figures[0].axes, panels, strict=True):
        own = values[(values["tensor"] == tensor) & (values["side"] == side)]
        names = list(dict.fromkeys(own["checkpoint"]))
        parts = [own[own["checkpoint"] == name] for name in names]
        expected = [part["rate"] for part in parts] + [parts[-1]["magnitude_matched"]]
        curves = [heights for _, heights in drawn.lines(ax) if len(heights) > 2]
        for heights, one in zip(curves, expected, strict=True):
            whole = list(one)
            near = [whole[max(0, at - 1) : at + 2] for at in range(len(whole))]
            np.testing.assert_allclose(heights, [sum(part) / len(part) for part in near], rtol=1e-9)
