"""`fima report`: one page about runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fima.commands.parse import OUT, Device, one_or_more
from fima.config.checks import require
from fima.errors import ConfigError, warn
from fima.files.atomic import write_file
from fima.files.output import OutputFile


@dataclass(frozen=True, kw_only=True)
class ReportArguments:
    """Write one page about one or several runs that can be opened from disk and sent to a colleague: what was trained
    on what, curves, results, classes, activation maps, neighbours, a map of the features, skipped videos, settings.

    For example: `fima report runs/mine -o report.html`.
    """

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], one_or_more("RUN")]
    """Folders of runs."""
    out: Annotated[OutputFile, OUT] = Path("report.html")
    """The page to write."""
    data: Path | None = None
    """Folder of videos for the galleries. None: what each run was trained on."""
    gallery: bool = True
    """Include galleries. They need the videos and the last checkpoint, and reuse cached features of an evaluation."""
    title: str | None = None
    """Heading of the page. None: the names of the runs."""
    device: Device = "auto"

    def __post_init__(self) -> None:
        require(self.out.suffix in (".html", ".htm"), "out", self.out, "must end in .html")
        rule = "is for the galleries, which --no-gallery leaves out"
        require(self.data is None or self.gallery, "data", self.data, rule)


def main(arguments: ReportArguments) -> None:
    """Run the command."""
    if not arguments.runs:
        raise ConfigError("no run given; `fima report RUN… -o report.html`")
    from fima.torch_tools.device import choose_device
    from fima.visual.report.gallery import Galleries, make_galleries
    from fima.visual.report.media import MediaStore
    from fima.visual.report.page import LARGEST_PAGE_BYTES, MEDIA_BYTES, build_page
    from fima.visual.report.runs import read_runs

    runs = read_runs(arguments.runs)
    media, galleries = MediaStore(MEDIA_BYTES), Galleries()
    if arguments.gallery:
        device = choose_device(arguments.device)
        galleries = make_galleries(runs, media, data=arguments.data, device=device)
    title = arguments.title or " · ".join(run.name for run in runs)
    page = build_page(runs, galleries, media, with_galleries=arguments.gallery, title=title)
    write_file(arguments.out, page)
    num_bytes = arguments.out.stat().st_size
    for name, reason in galleries.reasons.items():
        warn(f"{name}: no galleries ({reason})")
    if media.num_left_out:
        warn(f"{media.num_left_out} videos left out, to keep the page small")
    if num_bytes > LARGEST_PAGE_BYTES:
        warn(f"the page has {num_bytes / 1e6:.1f} MB; give fewer runs")
    print(f"wrote {arguments.out} ({num_bytes / 1e6:.1f} MB)")
