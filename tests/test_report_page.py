"""`fima report`: what the page holds, what it refuses, and that it works in a real browser."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fima.checkpoints.run_folder import RunFolder
from fima.cli import main
from fima.errors import ConfigError
from fima.train.pretrain import pretrain
from fima.visual.report.charts import curve_charts
from fima.visual.report.runs import read_run, read_runs
from tests.browser import Elements, chromium
from tests.small_runs import with_settings
from tests.video_files import write_ucf101_avi

Capture = pytest.CaptureFixture[str]
HOSTILE = "<img src=x onerror=document.title='bad'>"
LOCAL_ADDRESSES = ("file:", "data:", "blob:", "chrome:", "chrome-untrusted:")
"""The page, what is in it, and the browser's own start page."""
TABS = ["Overview", "Curves", "Results", "Classes", "Activation", "Retrieval", "Features", "Skipped", "Settings"]


def hostile_videos(folder: Path) -> Path:
    """Two classes of small videos; one of them, and one file, have names that HTML takes for markup."""
    for position in range(20):
        name = (HOSTILE, "b & </script>c")[position % 2].replace("/", "∕")
        file = f"{position:02d}<b>&amp;.avi"
        write_ucf101_avi(folder / name / file, num_frames=12, seed=position, side=40)
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile_videos(tmp_path_factory.mktemp("report") / "videos")


@pytest.fixture(scope="module")
def runs(videos: Path) -> list[Path]:
    """A FIMA run that was evaluated, and a MoCo run that was not."""
    folders = [videos.parent / "fima", videos.parent / "moco <i>"]
    for folder, name in zip(folders, ("fima", "moco"), strict=True):
        pretrain(with_settings("method", name=name), data=videos, out=folder)
    line = {"path": f"/videos/{HOSTILE}.avi", "reason": "<b>truncated</b>", "epoch": 1, "step": 1}
    RunFolder(folders[0]).skipped.write_text(f"{json.dumps(line)}\n{json.dumps(line)}\n")
    evaluate = ["evaluate", str(RunFolder(folders[0]).last), str(videos), "--num-clips", "2", "--workers", "0"]
    assert main([*evaluate, "--device", "cpu"]) == 0
    return folders


@pytest.fixture(scope="module")
def page(runs: list[Path]) -> Path:
    out = runs[0].parent / "report.html"
    assert main(["report", *map(str, runs), "-o", str(out), "--device", "cpu"]) == 0
    return out


def test_page_is_one_small_file_that_asks_for_nothing_else(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert 4e6 < page.stat().st_size < 10e6
    found = Elements(text)
    for tag, attributes in found.tags:
        assert tag not in {"link", "iframe", "img", "object", "base"}
        for name in ("src", "poster", "data"):
            assert (attributes.get(name) or "data:").startswith("data:")
        assert (attributes.get("href") or "#").startswith("#")
    policies = [a["content"] for _, a in found.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert ["default-src 'none'" in str(policy) for policy in policies] == [True]
    assert not list(page.parent.glob(".report*"))


def test_page_tells_what_was_done(page: Path, runs: list[Path], videos: Path) -> None:
    found = Elements(page.read_text(encoding="utf-8"))
    text = " ".join(found.texts)
    for words in ("FIMA · tiny", "MoCo · tiny", "2 of 2 epochs", str(videos), "4 frames of 32 px", "linear/top1"):
        assert words in text
    tabs = [attributes["id"] for _, attributes in found.tags if attributes.get("role") == "tab"]
    assert tabs == [f"tab-{name}" for name in TABS]
    result = json.loads((runs[0] / "evaluation" / "last.json").read_text())
    assert f"{result['figures']['retrieval/R@1']:.1f}" in found.texts


def test_names_and_paths_are_text_and_never_markup(page: Path) -> None:
    found = Elements(page.read_text(encoding="utf-8"))
    assert not [tag for tag, _ in found.tags if tag in {"img", "b", "i"}]
    assert not [attributes for _, attributes in found.tags if "onerror" in attributes]
    assert f"/videos/{HOSTILE}.avi" in found.texts
    assert "<b>truncated</b>" in found.texts
    ends = page.read_text(encoding="utf-8").count("</script>")
    assert ends == sum(tag == "script" for tag, _ in found.tags)


def test_every_chart_has_words_and_every_table_a_caption(page: Path) -> None:
    found = Elements(page.read_text(encoding="utf-8"))
    charts = [attributes for _, attributes in found.tags if attributes.get("class") == "plot"]
    assert len(charts) > 10
    assert all(attributes["role"] == "img" and len(attributes["aria-label"] or "") > 20 for attributes in charts)
    players = [attributes for tag, attributes in found.tags if tag == "video"]
    assert players
    assert all(attributes["aria-label"] and attributes["poster"] for attributes in players)
    count = {tag: sum(other == tag for other, _ in found.tags) for tag in ("table", "caption")}
    assert count["table"] == count["caption"] > 4


def test_without_galleries_no_video_is_needed(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "deep" / "page.html"
    monkeypatch.chdir(runs[1].parent)
    assert main(["report", runs[1].name, "-o", str(out), "--no-gallery", "--title", "A & B"]) == 0
    text = out.read_text(encoding="utf-8")
    assert "<h1>A &amp; B</h1>" in text
    assert "<video" not in text
    assert "Left out on request" in text
    assert str(runs[1]) in Elements(text).texts, "the page may be read elsewhere"


def test_a_run_whose_data_are_gone_is_reported_without_galleries(tmp_path: Path, capsys: Capture) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.root.mkdir()
    folder.write_config(with_settings("run"), {"root": str(tmp_path / "gone"), "num_videos": 3})
    folder.metrics.write_text('{"kind": "step", "epoch": 1, "step": 1, "loss": 2.5}\n{"kind": "st')
    out = tmp_path / "page.html"
    assert main(["report", str(folder.root), "-o", str(out), "--device", "cpu"]) == 0
    assert "gone: no such folder" in capsys.readouterr().err
    assert "gone: no such folder" in out.read_text(encoding="utf-8")


def test_videos_without_labels(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    for position in range(5):
        write_ucf101_avi(folder / f"{position}.avi", num_frames=10, seed=position, side=40)
    pretrain(with_settings("optim", epochs=1), data=folder, out=tmp_path / "run")
    out = tmp_path / "page.html"
    assert main(["report", str(tmp_path / "run"), "-o", str(out), "--device", "cpu"]) == 0
    found = Elements(out.read_text(encoding="utf-8"))
    assert sum(tag == "video" for tag, _ in found.tags) == 5 + 5 * (1 + 4)
    assert "same class" not in " ".join(found.texts)
    assert f"fima evaluate {tmp_path / 'run'} LABELLED" in found.texts
    assert "other videos" in " ".join(str(attributes.get("aria-label")) for _, attributes in found.tags)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no run given"),
        (["RUN", "RUN"], "given twice"),
        (["none"], "none: no such folder"),
        (["EMPTY"], "holds no run"),
        (["CHECKPOINT"], "last.pt: is a file; give the folder of a run"),
        (["RUN", "-o", "page.pdf"], "--out page.pdf: must end in .html"),
        (["RUN", "--data", "none"], "none: no such folder"),
        (["RUN", "--data", "none", "--no-gallery"], "is for the galleries"),
    ],
)
def test_wrong_words_are_refused(
    runs: list[Path], tmp_path: Path, words: list[str], message: str, capsys: Capture
) -> None:
    places = {"RUN": str(runs[0]), "EMPTY": str(tmp_path), "CHECKPOINT": str(RunFolder(runs[0]).last)}
    assert main(["report", *(places.get(word, word) for word in words)]) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_runs_of_one_name_are_told_apart(runs: list[Path], tmp_path: Path) -> None:
    for name in ("x", "y"):
        folder = RunFolder(tmp_path / name / "run")
        folder.root.mkdir(parents=True)
        folder.write_config(with_settings("run"), {})
    assert [run.name for run in read_runs([tmp_path / name / "run" for name in "xy"])] == ["x/run", "y/run"]
    with pytest.raises(ConfigError, match="holds no run"):
        read_run(tmp_path, "x")
    with pytest.raises(ConfigError, match=f"holds no run .*; give those in it: `fima report {tmp_path}/x/run`"):
        read_run(tmp_path / "x", "x")


def test_curves_hold_every_number_of_the_metrics(runs: list[Path]) -> None:
    charts = {chart.title: chart for chart in curve_charts(read_runs(runs))}
    assert {
        "Loss (weighted sum)",
        "Learning rate",
        "kNN accuracy (health check)",
        "Effective rank of the embeddings",
    } <= (charts.keys())
    first, *_ = charts["Loss (weighted sum)"].data
    lines = read_run(runs[0], "x").of_kind("step")
    assert first["x"] == [line["step"] for line in lines]
    np.testing.assert_allclose(first["y"], [line["loss"] for line in lines], rtol=1e-4)
    assert len(charts["Instance loss"].data) == 4
    named = [trace["name"] for trace in charts["Similarity of two clips of one video"].data if trace["showlegend"]]
    assert named == ["fima", "fima, health check", "moco &lt;i&gt;", "moco &lt;i&gt;, health check"]
    assert len(charts["Frame-level motion loss"].data) == 2


@pytest.fixture(scope="module")
def browser(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as session:
        session.get(page.as_uri())
        yield session


class TestBrowser:
    """The page as a reader meets it, opened from disk."""

    def test_opens_without_errors_and_without_the_network(self, browser: Any, page: Path) -> None:  # noqa: ANN401
        assert [tab.text for tab in browser.find_elements("css selector", "[role=tab]")] == TABS
        assert browser.title == "fima · moco <i>"
        assert browser.get_log("browser") == []
        messages = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
        asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        assert page.as_uri() in asked
        assert [url for url in asked if not url.startswith(LOCAL_ADDRESSES)] == []

    @pytest.mark.parametrize("name", TABS)
    def test_each_tab_shows_its_panel_and_draws_its_charts(self, browser: Any, name: str) -> None:  # noqa: ANN401
        browser.find_element("id", f"tab-{name}").click()
        panels = browser.find_elements("css selector", "[role=tabpanel]")
        assert [panel.get_attribute("id") for panel in panels if panel.is_displayed()] == [f"panel-{name}"]
        # What is folded away is drawn when it is unfolded, which the browser tells the page a moment later.
        browser.execute_async_script(
            "document.querySelectorAll(`#${arguments[0]} details`).forEach((part) => { part.open = true; });"
            "setTimeout(arguments[1], 500);",
            f"panel-{name}",
        )
        plots = browser.find_elements("css selector", f"#panel-{name} .plot")
        assert all(plot.find_elements("css selector", "svg.main-svg") for plot in plots)
        assert len(plots) > 0 or name not in {"Curves", "Results", "Classes", "Features"}
        assert not browser.execute_script("return document.documentElement.scrollWidth > innerWidth")
        assert browser.get_log("browser") == []
        assert browser.title == "fima · moco <i>"

    @pytest.mark.parametrize("name", ["Activation", "Retrieval"])
    def test_each_player_plays(self, browser: Any, name: str) -> None:  # noqa: ANN401
        browser.find_element("id", f"tab-{name}").click()
        for button in browser.find_elements("css selector", f"#panel-{name} .play"):
            browser.execute_script("arguments[0].click()", button)
        played = browser.execute_async_script(
            """
            const [name, done] = arguments;
            const videos = [...document.querySelectorAll(`#panel-${name} video`)];
            const moves = (video) => new Promise((resolve) => {
              const look = () => (video.currentTime > 0 ? resolve(video.videoWidth > 0) : setTimeout(look, 50));
              look();
            });
            Promise.all(videos.map(moves)).then(done);
            """,
            name,
        )
        assert len(played) > 3
        assert all(played)
        button = browser.find_element("css selector", f"#panel-{name} .play")
        assert "pause" in button.text
        assert (button.get_attribute("aria-label") or "pause").startswith("pause")
        browser.find_element("id", "tab-Overview").click()
        assert browser.execute_script("return [...document.querySelectorAll('video')].every((video) => video.paused)")

    def test_keys_move_between_tabs(self, browser: Any) -> None:  # noqa: ANN401
        browser.find_element("id", "tab-Overview").click()
        for key, expected in (
            ("\ue014", "Curves"),
            ("\ue010", "Settings"),
            ("\ue014", "Overview"),
            ("\ue012", "Settings"),
        ):
            browser.switch_to.active_element.send_keys(key)
            assert browser.switch_to.active_element.text == expected
            assert browser.find_element("id", f"panel-{expected}").is_displayed()

    def test_theme_follows_the_system_and_the_reader(self, browser: Any) -> None:  # noqa: ANN401
        def paper() -> str:
            return str(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))

        def system(scheme: str) -> None:
            feature = {"name": "prefers-color-scheme", "value": scheme}
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
            # Two frames: the page hears of the change in the first.
            browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")

        system("light")
        light = paper()
        system("dark")
        assert paper() != light
        browser.find_element("id", "theme").click()
        assert paper() == light
        browser.find_element("id", "theme").click()
        assert paper() != light
        browser.find_element("id", "theme").click()
        system("light")
        assert paper() == light

    def test_hovering_over_the_map_shows_the_video(self, browser: Any) -> None:  # noqa: ANN401
        browser.find_element("id", "tab-Features").click()
        point = browser.find_element("css selector", ".embedding .plot .points path")
        action_chains = pytest.importorskip("selenium.webdriver").ActionChains(browser)
        action_chains.scroll_to_element(point).move_to_element(point).perform()
        card = browser.find_element("id", "hover-card")
        assert card.is_displayed()
        assert ".avi" in card.text

    def test_fits_a_phone_and_prints_everything(self, browser: Any) -> None:  # noqa: ANN401
        size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        for name in TABS:
            browser.execute_script("arguments[0].click()", browser.find_element("id", f"tab-{name}"))
            assert not browser.execute_script("return document.documentElement.scrollWidth > innerWidth"), name
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        printed = browser.execute_cdp_cmd("Page.printToPDF", {})
        assert len(printed["data"]) > 50_000
        browser.execute_script("document.getElementById('tab-Results').click()")
        widest = (
            "return Math.max(...[...document.querySelectorAll('.shown .main-svg')].map((e) => e.width.baseVal.value))"
        )
        on_screen = browser.execute_script(widest)
        on_paper = browser.execute_script(f"dispatchEvent(new Event('beforeprint')); {widest}")
        assert on_paper <= 670 < on_screen, "A4 has 670 px beside its margins and the border of a chart"
        assert browser.execute_script(f"dispatchEvent(new Event('afterprint')); {widest}") == on_screen
        assert browser.execute_script(
            "return [...document.querySelectorAll('.plot')].every((plot) => plot.querySelector('svg.main-svg'))"
        )
        assert browser.get_log("browser") == []
