"""The diagnosis in `fima report`: bars, intervals, floors and verdict, also on a phone."""

from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.support.ui import WebDriverWait

from fima.visual.report.gallery import Galleries
from fima.visual.report.media import MediaStore
from fima.visual.report.page import build_page
from fima.visual.report.runs import Result, RunRecord
from fima.visual.report.sections import diagnosis_of
from tests.browser import Elements, chromium

BOXES = (
    "return [...document.querySelectorAll('.diagnosis text')].map(text => {"
    "const inner = text.getBoundingClientRect(), outer = text.ownerSVGElement.getBoundingClientRect();"
    "return [inner.left - outer.left, outer.right - inner.right, inner.height]})"
)
"""Distances of each text from the sides of its picture, and its height, in pixels."""
FIGURES = {
    "as_is": 62.0, "one_frame": 38.5, "shuffled": 45.0, "reversed": 57.0, "median_subtracted": 60.0, "foreground": 59.0,
    "background": 30.0, "swapped": 55.0, "half_speed": 50.0, "double_speed": 100.0,
    "untrained": 28.0, "untrained_one_frame": 21.0, "frame_differences": 40.0,
}  # fmt: skip
VERDICT = "Motion decides: of what this encoder knows about the classes, 40 % (31 to 48) is in a single frame, …"


def content(*, intervals: bool) -> dict[str, Any]:
    figures = {f"diagnosis/{name}": value for name, value in FIGURES.items()}
    known = {name: (max(0.0, value - 7.5), min(100.0, value + 6.0)) for name, value in figures.items()}
    return {
        "figures": {"knn/top1": 50.0, **figures, "diagnosis/one_frame/same_probe": 20.0},
        "chance": dict.fromkeys(["knn/top1", *figures], 16.7),
        "intervals": known if intervals else {},
        "protocols": {},
        "verdict": VERDICT,
    }


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two runs, one of which has no groups."""
    runs = [
        RunRecord(
            name=name,
            root=Path(name),
            settings={},
            record={},
            lines=[],
            results=[Result(name="evaluation/last.json", content=content(intervals=name == "fima"))],
        )
        for name in ("fima", "moco")
    ]
    path = tmp_path_factory.mktemp("diagnosis") / "report.html"
    text = build_page(runs, Galleries(), MediaStore(0), with_galleries=False, title="Diagnosis")
    path.write_text(text, encoding="utf-8")
    return path


def test_bars_are_as_long_as_their_figures(page: Path) -> None:
    found = Elements(page.read_text(encoding="utf-8"))
    widths = [float(str(attributes["width"])) for tag, attributes in found.tags if tag == "rect"]
    inputs = [
        value
        for name, value in FIGURES.items()
        if name not in ("untrained", "untrained_one_frame", "frame_differences")
    ]
    assert sorted(widths) == pytest.approx(sorted(2 * [2.2 * value for value in inputs]), abs=0.06)
    intervals = [str(attributes["d"]) for _, attributes in found.tags if attributes.get("class") == "interval"]
    assert len(intervals) == len(inputs)
    assert intervals[0].startswith(f"M{140 + 2.2 * 54.5:.1f} ")
    assert f"H{140 + 2.2 * 68:.1f}" in intervals[0]
    floors = [attributes for _, attributes in found.tags if attributes.get("class") == "floor" and "y1" in attributes]
    through = [float(str(attributes["x1"])) for attributes in floors if attributes["y1"] == "2"]
    assert through == pytest.approx(2 * [140 + 2.2 * value for value in (16.7, 28, 21, 40)], abs=0.06)
    assert found.texts.count(VERDICT) == 2
    (without,) = [text for text in found.texts if "No intervals on the bars" in text]
    assert "--group-by" in without


def test_other_evaluations_have_no_picture() -> None:
    assert diagnosis_of("run", "#000", {"figures": {"knn/top1": 50.0}, "chance": {}}) is None


def test_it_fits_a_phone_and_a_desktop(page: Path, tmp_path: Path) -> None:
    with chromium(tmp_path) as browser:
        for width in (390, 1280):
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            browser.get(page.as_uri())
            browser.execute_script("document.getElementById('tab-Results').click()")
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
            # A busy machine shows the tab a little later.
            WebDriverWait(browser, 120).until(lambda shown: min(height for *_, height in shown.execute_script(BOXES)))
            boxes = browser.execute_script(BOXES)
            assert min(min(left, right) for left, right, _ in boxes) >= -1
            assert min(height for *_, height in boxes) >= 9


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        ({}, "it is not known which videos belong together (--group-by)"),
        ({"num_groups": 9}, "not every test video was measured on every input"),
        ({"num_groups": 3}, "the test videos are of 3 groups, and intervals need 6"),
        ({"num_groups": 9, "intervals": {"diagnosis/as_is": [50.0, 70.0]}}, ""),
    ],
)
def test_bars_without_intervals_say_why(known: dict[str, Any], reason: str) -> None:
    content = {"figures": {"diagnosis/as_is": 60.0}, "chance": {"diagnosis/as_is": 10.0}, **known}
    found = diagnosis_of("x", "red", content)
    assert found is not None
    assert found.without_intervals == reason
