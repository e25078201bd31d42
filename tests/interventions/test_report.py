"""The page in a real browser: no console error, nothing asked for, and the collapse to be seen."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from scramble.interventions.experiment import Experiment
from scramble.interventions.report import write_report
from tests.experiments import RECIPE
from tests.interventions.synthetic import synthetic

pytestmark = pytest.mark.browser


@pytest.fixture
def experiment() -> Experiment:
    arms = {"base": [], "scrambled": ["vo-rotation:layers=5,9"]}
    content = {"name": "page", "base": "b", "arms": arms, "seeds": [1, 2], "notes": ["A note."]}
    return Experiment.model_validate(content | {"recipe": RECIPE})


def screenshot(path: Path, browser: object) -> np.ndarray:
    """The collapse figure as pixels; fails on console messages and on requests that leave the file."""
    from PIL import Image

    page = browser.new_page(viewport={"width": 1300, "height": 900})  # type: ignore[attr-defined]
    seen: list[str] = []
    page.on("console", lambda message: seen.append(message.text))
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.on("request", lambda request: seen.append(request.url) if request.url.startswith("http") else None)
    page.goto(path.as_uri())
    found = page.locator(".overlap svg").screenshot()
    body = page.inner_text("body")
    assert "A note." in body
    assert "4 of 4 runs gained" in body
    assert "0.54 (0.44 to 0.64)" in body
    assert "No conclusion about geometry" in body
    assert "By design, whatever the values, these arms cannot tell sizes of updates that follow" in body
    assert "nan" not in body.split()
    assert page.evaluate("document.documentElement.scrollWidth") <= 1300
    page.close()
    assert seen == []
    return np.asarray(Image.open(io.BytesIO(found)).convert("RGB")).astype(int)


def near(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (np.abs(pixels - np.array(colour)) < 24).all(axis=-1)


@pytest.mark.parametrize("collapse", [True, False])
def test_the_collapse_is_to_be_seen_where_there_is_one(
    collapse: bool, experiment: Experiment, browser: object, tmp_path: Path
) -> None:
    pixels = screenshot(write_report(experiment, [], synthetic(collapse), tmp_path)[0], browser)
    height, width, _ = pixels.shape
    top = slice(int(0.15 * height), int(0.5 * height))  # the first module's row, below the legend
    depth = {}
    for frame, columns in (("raw", slice(0, width // 2)), ("aligned", slice(width // 2, width))):
        line = near(pixels[top, columns], (0xD5, 0x5E, 0x00)) | near(pixels[top, columns], (0x00, 0x9E, 0x73))
        rows = np.nonzero(line.any(axis=1))[0]
        assert len(rows), "no line of a contrast in the figure"
        depth[frame] = (rows.max() - rows.min()) / (top.stop - top.start)
    assert depth["aligned"] < 0.1
    assert (depth["raw"] > 0.4) == collapse
    band = (
        near(pixels, (0xF8, 0xF3, 0xA0)) | near(pixels, (0xF9, 0xF4, 0xAB)) | near(pixels, (0xF7, 0xF2, 0x9E))
    )
    assert band.any(axis=0).sum() > 10, "treated layers are not marked"
