"""The page itself: one file that needs nothing else, with tabs, charts, players and both colour schemes."""

import datetime
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from plotly.offline import get_plotlyjs

from fima.version import __version__
from fima.visual.report import pictures, sections
from fima.visual.report.gallery import Galleries
from fima.visual.report.markup import Markup, element, joined, script_json
from fima.visual.report.media import MediaStore
from fima.visual.report.runs import ClassReport, RunRecord

LARGEST_PAGE_BYTES = 10_000_000
MEDIA_BYTES = 3_600_000
"""What videos may take: Plotly's script takes 4.8 MB of the page, curves and thumbnails the rest."""
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; media-src blob:"
)


def build_page(runs: Sequence[RunRecord], galleries: Galleries, media: MediaStore, *, wanted: bool, title: str) -> str:
    """Put the page together.

    Args:
        runs: what it is about.
        galleries: what was made from videos; empty where that is not wanted.
        media: the videos; previews are added on the way.
        wanted: whether galleries were asked for.
        title: heading of the page.
    """
    charts = sections.Charts()
    tabs: dict[str, Markup] = {
        "Overview": sections.overview(runs),
        "Curves": sections.curves(runs, charts),
        "Results": sections.results(runs, charts),
        "Classes": sections.classes(_class_reports(runs, galleries), charts),
        "Activation": pictures.activation(galleries, media, wanted=wanted),
        "Retrieval": pictures.retrieval(galleries, media, wanted=wanted),
        "Features": pictures.embedding(galleries, charts, wanted=wanted),
        "Skipped": sections.skipped(runs),
        "Settings": sections.settings(runs),
    }
    body = joined(
        [
            element("a", "Skip to the content", href="#content", class_="skip"),
            _header(title, runs),
            _tab_list(list(tabs)),
            element("main", *(_panel(name, content) for name, content in tabs.items()), id="content"),
            element("div", id="hover-card", aria_hidden="true"),
            script_json("media", media.contents),
            Markup(f"<script>{_script_text(get_plotlyjs())}</script>"),
            Markup(f"<script>{_script_text(_asset('page.js'))}</script>"),
        ]
    )
    head = joined(
        [
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content=POLICY),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="generator", content=f"fima {__version__}"),
            element("title", title),
            Markup(f"<style>{_asset('page.css')}</style>"),
        ]
    )
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def write_page(page: str, out: Path) -> None:
    """Write the page in one piece."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(out)


def _class_reports(runs: Sequence[RunRecord], galleries: Galleries) -> Mapping[str, Sequence[ClassReport]]:
    """What evaluations wrote; where they wrote nothing, the vote of the neighbours of the gallery."""
    votes = {gallery.run.name: gallery.class_report for gallery in galleries.runs}
    found: dict[str, list[ClassReport]] = {}
    for run in runs:
        vote = votes.get(run.name)
        found[run.name] = list(run.class_reports) or ([vote] if vote is not None else [])
    return found


def _header(title: str, runs: Sequence[RunRecord]) -> Markup:
    names = [element("li", sections.swatch(number), run.name) for number, run in enumerate(runs)]
    made = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    return element(
        "header",
        element("div", element("h1", title), element("p", f"fima {__version__} · {made}", class_="made")),
        element("ul", *names, class_="runs"),
        element("button", "Theme: system", type="button", id="theme"),
    )


def _tab_list(names: Sequence[str]) -> Markup:
    buttons = []
    for number, name in enumerate(names):
        state = {"aria_selected": "false" if number else "true", "tabindex": -1 if number else 0}
        words = {"id": f"tab-{name}", "aria_controls": f"panel-{name}", **state}
        buttons.append(element("button", name, type="button", role="tab", **words))
    return element("nav", element("div", *buttons, role="tablist", aria_label="Parts of the report"))


def _panel(name: str, content: Markup) -> Markup:
    return element(
        "section", element("h2", name), content, id=f"panel-{name}", role="tabpanel", aria_labelledby=f"tab-{name}"
    )


def _asset(name: str) -> str:
    return files("fima.visual.report").joinpath("assets", name).read_text(encoding="utf-8")


def _script_text(text: str) -> str:
    """A script that holds nothing that would end its element."""
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")
