"""The page itself: one file that needs nothing else, with tabs, charts, players and both colour schemes."""

import datetime
import shlex
from collections.abc import Sequence

from plotly.offline import get_plotlyjs

from fima.version import __version__
from fima.visual.html import render, script
from fima.visual.report import sections
from fima.visual.report.charts import curve_charts, run_colour
from fima.visual.report.gallery import Galleries
from fima.visual.report.media import MediaStore
from fima.visual.report.runs import FIGURE_NAMES, RunRecord

LARGEST_PAGE_BYTES = 10_000_000
MEDIA_BYTES = 3_600_000
"""What videos may take: Plotly's script takes 4.8 MB of the page, curves and thumbnails the rest."""
TABS = ("Overview", "Curves", "Results", "Classes", "Activation", "Retrieval", "Features", "Skipped", "Settings")
"""Each is filled by the template of its name, from what `build_page` passes on."""


def build_page(
    runs: Sequence[RunRecord], galleries: Galleries, media: MediaStore, *, with_galleries: bool, title: str
) -> str:
    """Put the page together; `galleries` are empty unless they were asked for."""
    votes = {each.run.name: each.class_report for each in galleries.runs if each.class_report is not None}
    return render(
        "fima.visual.report",
        "page.html",
        title=title,
        version=__version__,
        made=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        tabs=TABS,
        runs=runs,
        quoted=shlex.quote,
        run_colour=run_colour,
        figure_names=FIGURE_NAMES,
        curves=curve_charts(runs),
        epochs=sections.epochs(runs),
        results=sections.results(runs),
        classes=sections.classes(runs, votes),
        with_galleries=with_galleries,
        galleries=galleries,
        media=media,
        skipped=sections.skipped(runs),
        settings=sections.all_settings(runs),
        differing=sections.differing_settings(runs),
        plotly=script(get_plotlyjs()),
    )
