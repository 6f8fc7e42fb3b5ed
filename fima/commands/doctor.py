"""`fima doctor`: what lies in a folder of videos, and what is wrong with it."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.filesize import decimal
from rich.table import Table

from fima.commands.parse import check_recipe
from fima.commands.progress import progress
from fima.commands.system import check_system, show_checks
from fima.config import PretrainConfig
from fima.config.checks import require, require_least
from fima.console import Console
from fima.data.clip_overrides import with_clips
from fima.data.datasets import list_videos
from fima.data.layouts.video_list import counted
from fima.data.quarantine import write_quarantine
from fima.errors import ConfigError, DataError, one_line
from fima.files.atomic import write_file
from fima.files.output import OutputFile
from fima.library.clip_fit import first_classifier, first_training, fit_of, suits_paper
from fima.library.doctor import ADVICE, Diagnosis, Finding, diagnose
from fima.library.index import open_index
from fima.recipe import read_recipe

EXIT_PROBLEMS = 1
NAMED_FILES = 5
ROWS = 6
BAR_WIDTH = 40


@dataclass(frozen=True, kw_only=True)
class ClipArguments:
    """The clips of a training that the videos are to be used for."""

    frames: int | None = None
    """Frames per clip. None: as in the recipe, or the paper's 16."""
    stride: float | None = None
    """Source frames between neighbouring frames of a clip. None: as in the recipe, or the paper's 2."""
    fps: float | None = None
    """Frames per second of a clip, instead of `stride`."""
    frame_rate: float | None = None
    """Frame rate of videos whose files do not state one."""
    span: tuple[float, float] | None = None
    """Share of its video that a clip covers, instead of `stride`."""


@dataclass(frozen=True, kw_only=True)
class DoctorArguments:
    """Check the videos of a folder: what is there, what cannot be used and why, what to do.

    For example: `fima doctor VIDEOS --deep`.
    Exit code: 0 when every video can be used, 1 when some cannot, 2 for a wrong command line.
    """

    data: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="VIDEOS")] = None
    """Folder of videos; not needed with --system."""
    recipe: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[RECIPE]")] = None
    """YAML file with settings, whose clips the videos are compared with."""
    clips: Annotated[ClipArguments, tyro.conf.arg(name="data")] = field(default_factory=ClipArguments)
    system: bool = False
    """Check this machine instead: versions, GPU, codecs, shared memory, limits. Exit code 1 where it cannot train."""
    deep: bool = False
    """Decode every video to its end, instead of reading the headers only."""
    json: OutputFile | None = None
    """Write all findings to this JSON file."""
    quarantine: OutputFile | None = None
    """Write the unusable videos to this list, for `fima pretrain --data.exclude`."""
    index: OutputFile | None = None
    """File that remembers what was read of the videos. None: one below $XDG_CACHE_HOME/fima or ~/.cache/fima."""
    workers: int | None = None
    """Processes that read. None: as many as there are cores."""
    timeout: float | None = None
    """Seconds for one file. None: 20 for a header, 600 for decoding."""

    def __post_init__(self) -> None:
        if self.data is None and not self.system:
            raise ConfigError("missing: a folder of videos, `fima doctor VIDEOS`; or --system, to check this machine")
        if self.data is not None and self.system:
            raise ConfigError(f"--system checks this machine, not {self.data}; give one of them")
        of_videos = (self.deep, self.quarantine, self.index, self.workers, self.timeout)
        if self.system and (any(of_videos) or self.clips != ClipArguments()):
            raise ConfigError("--system checks this machine and takes --json only; the other flags are for videos")
        require_least(self, workers=1)
        require(self.timeout is None or self.timeout > 0, "timeout", self.timeout, "must be greater than 0")


def main(arguments: DoctorArguments) -> int:
    """Run the command and return its exit code: 0, or 1 where a video cannot be used."""
    if arguments.data is None:
        return _check_system(arguments.json)
    check_recipe(arguments.recipe)
    recipe = PretrainConfig() if arguments.recipe is None else read_recipe(arguments.recipe)
    given = {name: value for name, value in vars(arguments.clips).items() if value is not None}
    clips = with_clips(recipe.data, given)
    videos = list_videos(arguments.data, "all")
    with open_index(videos.root, arguments.index) as index:
        with progress("decoding" if arguments.deep else "reading headers") as report:
            index.update(
                [video.path for video in videos.videos],
                workers=arguments.workers,
                timeout_seconds=arguments.timeout,
                decode=arguments.deep,
                progress=report,
            )
        diagnosis = diagnose(videos, index, decoded=arguments.deep)
        lengths = index.lengths()
    console = Console()
    show(diagnosis, console)
    root, every = str(arguments.data), list(lengths.values())
    fit = fit_of(every, clips) if every else None
    lines: list[str | None] = []
    if diagnosis.problems and arguments.quarantine is None:
        lines.append("to exclude what cannot be used: --quarantine FILE, then `fima pretrain --data.exclude FILE`")
    if fit is not None:
        # The clips of `small` fit any length and rate: no flag is needed, and some are refused beside its recipe.
        is_for_small = not given and arguments.recipe is None and not suits_paper(every, _has_gpu)
        lines.append((replace(fit, advice=[]) if is_for_small else fit).line)
        if arguments.recipe is None:
            num_classes = len(videos.classes) if _has_test_videos(arguments.data) else 0
            lines += [first_training(root, every, _has_gpu), first_classifier(root, every, num_classes)]
    for line in filter(None, lines):
        console.print(line, soft_wrap=True)
    if arguments.json is not None:
        _write_json(arguments.json, {**asdict(diagnosis), "clips": None if fit is None else asdict(fit)})
    if arguments.quarantine is not None:
        write_quarantine(arguments.quarantine, diagnosis.quarantine())
        print(f"wrote {arguments.quarantine}: pass it to `fima pretrain` as --data.exclude")
    return EXIT_PROBLEMS if diagnosis.problems else 0


def show(diagnosis: Diagnosis, console: Console) -> None:
    """Print a diagnosis: counts, a histogram of durations, and the findings by kind."""
    heading = (
        f"{diagnosis.root}: {counted(diagnosis.num_videos, 'video')} ({diagnosis.layout}), "
        f"{counted(diagnosis.total_frames, 'frame')}, "
        f"{diagnosis.total_seconds / 3600:.2f} hours, {decimal(diagnosis.total_bytes)}"
    )
    for line in (heading, *diagnosis.remarks):
        console.print(line, soft_wrap=True)
    table = Table("", "videos of each", box=None)
    for name in ("codecs", "pixel_formats", "sizes", "frame_rates"):
        table.add_row(name.replace("_", " "), _summary(getattr(diagnosis, name)))
    console.print(table)
    largest = max(diagnosis.durations.values(), default=0)
    longest = max(1, min(BAR_WIDTH, console.width - len(f"{'':>14}   {largest:,}")))
    for name, count in diagnosis.durations.items():
        if count:
            bar = "█" * max(1, round(longest * count / largest))
            console.print(f"{name:>14}  {bar} {count:,}")
    _show_findings(console, "cannot be used", diagnosis.problems)
    _show_findings(console, "to look at", diagnosis.notes)
    depth = "decoded to its end" if diagnosis.decoded else "checked by its header; --deep decodes it"
    fine = "every video was" if diagnosis.notes else "no problem; every video was"
    others = "every other video was" if diagnosis.problems else fine
    console.print(f"{others} {depth}")


def _has_test_videos(data: Path) -> bool:
    """Whether `fima finetune` finds videos to test on, as it does not where no class has five."""
    try:
        return bool(list_videos(data, "test").videos)
    except DataError:
        return False


def _has_gpu() -> bool:
    # Loading PyTorch takes seconds, and few folders are large enough for the question.
    import torch

    return torch.cuda.is_available()


def _summary(counts: Mapping[str, int]) -> str:
    shown = [f"{name} {count:,}" for name, count in list(counts.items())[:ROWS]]
    return ", ".join(shown) + (f", and {len(counts) - ROWS} more" if len(counts) > ROWS else "")


def _show_findings(console: Console, title: str, findings: Sequence[Finding]) -> None:
    if not findings:
        return
    by_kind: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        by_kind[finding.kind].append(finding)
    console.print(f"\n{len(findings):,} {title}:", style="bold")
    for kind, group in sorted(by_kind.items(), key=lambda item: -len(item[1])):
        console.print(f"  {kind} ({len(group):,}): {ADVICE[kind]}", soft_wrap=True)
        for finding in group[:NAMED_FILES]:
            console.print(f"    {one_line(f'{finding.path}: {finding.reason}')}", soft_wrap=True)
        if len(group) > NAMED_FILES:
            console.print(f"    … and {len(group) - NAMED_FILES:,} more; --json names them all")


def _check_system(json_file: Path | None) -> int:
    checks = check_system()
    show_checks(checks, Console())
    if json_file is not None:
        _write_json(json_file, {"checks": [asdict(check) for check in checks]})
    return EXIT_PROBLEMS if any(check.state == "problem" for check in checks) else 0


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    write_file(file, json.dumps(content, indent=1) + "\n")
    print(f"wrote {file}")
