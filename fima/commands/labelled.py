"""What the commands that measure encoders on labelled videos have in common."""

from __future__ import annotations

import itertools
import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fima.commands.parse import Device
from fima.commands.progress import kept_when_interrupted, progress
from fima.config import Dataset
from fima.data.datasets import recognise
from fima.data.layouts.folder import HELD_OUT
from fima.data.layouts.video_list import counted
from fima.errors import ConfigError, warn
from fima.evaluate.protocols import EvaluationConfig, EvaluationResult, SplitLists, SplitName
from fima.evaluate.splits import list_folds, list_splits
from fima.files.output import check_writable
from fima.library.clip_fit import coarse_clips

if TYPE_CHECKING:
    from fima.evaluate.evaluate import Collected
    from fima.evaluate.loaded_model import Subject


FEW_TESTED = 20
"""Of fewer test videos, one is more than five points."""
FEWEST_BEGINNINGS = 3
"""Of fewer beginnings that files share, those of cameras' own names (IMG, VID) would be taken for people."""


@dataclass(frozen=True, kw_only=True)
class LabelledArguments:
    """Which videos, and how encoders are measured on them."""

    dataset: Dataset = "auto"
    """Layout of the data; `auto` detects it."""
    annotations: Path | None = None
    """List file or folder of list files, if they are not with the videos."""
    splits: tuple[int, ...] | None = None
    """Numbers of the official splits; several give mean and standard deviation. None: split 1, or the one that a
    classifier was trained on."""
    device: Device = "auto"
    json: bool = False
    """Print the result as JSON instead of a table."""
    config: Annotated[EvaluationConfig, tyro.conf.arg(name="")] = field(default_factory=EvaluationConfig)


def evaluation_file(subject: Subject) -> Path:
    """Return where results of an encoder go: in the folder of its run, or next to a checkpoint that lies alone.

    Those of an encoder that comes with the package, whose folder may be read-only, and of one that is no file go to the
    current folder.
    """
    from fima.checkpoints.pretrained import ENCODERS
    from fima.checkpoints.run_folder import RunFolder

    encoder, run = subject.encoder, RunFolder(Path(subject.source))
    if encoder.file is None or encoder.file.is_relative_to(ENCODERS):
        name = re.sub(r"[^\w.-]+", "-", encoder.name if encoder.file is None else encoder.file.parent.name)
        return Path(f"{name}-evaluation", f"{name}.json")
    folder = encoder.file.parent
    if run.config.is_file():  # its checkpoints may lie elsewhere
        folder = run.root
    elif folder.name == "checkpoints":
        folder = folder.parent
    return folder / "evaluation" / f"{encoder.file.stem}.json"


def free_or_own(file: Path, is_own: Callable[[Any], bool]) -> Path:
    """Return the file, or one numbered from 2, that is not there yet, is damaged, or whose JSON is the caller's own."""

    def may_be_replaced(path: Path) -> bool:
        try:
            return is_own(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # also of a version that recorded less
            return True

    files = (file if number == 1 else file.with_stem(f"{file.stem}-{number}") for number in itertools.count(1))
    return next(path for path in files if not path.exists() or may_be_replaced(path))


def is_same_measurement(earlier: Mapping[str, Any], collected: Collected) -> bool:
    """Whether an earlier result is of the same protocols on the same clips of the same videos, on features of the same
    kinds and with the same settings of the probe, as far as it says. KeyError where it does not say the first."""
    protocols = {collected.protocol_of(name) for name in earlier["protocols"]}
    is_same = protocols == set(collected.protocols) and earlier["lists_hash"] == collected.lists_hash
    return is_same and earlier.get("looked_at", collected.looked_at) == collected.looked_at


def say_what_was_left_out(*results: EvaluationResult) -> None:
    """Warn of videos that could not be decoded, which figures are without."""
    left_out = {path: reason for result in results for path, reason in result.left_out().items()}
    if left_out:
        path, reason = next(iter(left_out.items()))
        videos = counted(len(left_out), "video")
        warn(f"figures are without {videos} that could not be decoded, such as {path}: {reason}; the JSON names all")


def list_labelled(arguments: LabelledArguments, data: Path, subjects: Sequence[Subject]) -> dict[SplitName, SplitLists]:
    """List the videos of all splits or folds; of the split that the first classifier was trained on if none is named.

    Raises ConfigError for splits and folds at once; otherwise as `list_splits` and `list_folds`.
    """
    numbers, config = arguments.splits, arguments.config
    if config.cross_validation is not None or config.folds is not None:
        if numbers is not None:
            flag = "--folds" if config.cross_validation is None else "--cross-validation"
            raise ConfigError(f"--splits {' '.join(map(str, numbers))}: {flag} makes its own; give one of the two")
        return list_folds(data, config, dataset=arguments.dataset, annotations=arguments.annotations)
    if numbers is None:
        name = arguments.dataset
        name = recognise(data, arguments.annotations) if name == "auto" else name
        numbers = (next((subject.own_split(name) for subject in subjects if subject.classifier is not None), 1),)
    return list_splits(
        data, numbers, dataset=arguments.dataset, annotations=arguments.annotations, group_by=config.group_by
    )


def say_aloud(subjects: Sequence[Subject], splits: Mapping[SplitName, SplitLists], config: EvaluationConfig) -> None:
    """Print what was assumed, and what is odd about the lists."""
    from fima.evaluate.intervals import FEWEST_GROUPS
    from fima.evaluate.linear_protocols import curve_warnings

    lists = (videos for split in splits.values() for videos in (split.train, split.test))
    sentences = [subject.assumption for subject in subjects if subject.assumption]
    sentences += [said for subject in subjects for lists in splits.values() if (said := subject.doubt(lists))]
    if config.span is None and not config.other_windows:
        every = [video.path for split in splits.values() for video in split.train.videos]
        coarse = (coarse_clips(every, clips) for clips in dict.fromkeys(subject.clips for subject in subjects))
        sentences += filter(None, coarse)
    if "low_shot_curve" in (config.protocols or ()):
        sentences += curve_warnings([split.train for split in splits.values()])
    tested = {split.groups[video.path] for split in splits.values() for video in split.test.videos if split.groups}
    folds = "--cross-validation group" if config.group_by is None else "--folds N"
    if not (config.cross_validation or config.folds or any(subject.classifier for subject in subjects)):
        # A classifier's test videos are those of its training: no folds of others can be made.
        doubts = (said for split in splits.values() for said in (few_tested(split), names_on_both_sides(split)))
        sentences += filter(None, doubts)
    if 0 < len(tested) < FEWEST_GROUPS:
        named = f"group{'s' if len(tested) > 1 else ''} {', '.join(sorted(tested))}"
        sentence = f"the test videos are of the {named}: no intervals, which need {FEWEST_GROUPS} or more"
        if config.cross_validation is None and config.folds is None:
            sentence += f"; {folds} tests every one once"
        sentences.append(sentence)
    for number, split in splits.items():
        both = [{split.groups.get(video.path) for video in part.videos} for part in (split.train, split.test)]
        if isinstance(number, int) and (shared := sorted(filter(None, both[0] & both[1]))):
            few = f"{', '.join(shared[:3])}{', …' if len(shared) > 3 else ''}"
            sentences.append(
                f"split {number}: {counted(len(shared), 'group')} ({few}) with training and test videos, so figures "
                f"are not of unseen ones; {folds} keeps each on one side"
            )
    for sentence in dict.fromkeys([*sentences, *(sentence for videos in lists for sentence in videos.warnings())]):
        warn(sentence)


def few_tested(split: SplitLists) -> str | None:
    """Say what one test video counts where there are few."""
    number = len(split.test.videos)
    if number >= FEW_TESTED:
        return None
    share = f"{counted(number, 'test video')}: one is {100 / number:.0f} points"
    return f"{share}; --folds N --group-by … tests every video once"


def names_on_both_sides(split: SplitLists) -> str | None:
    """Say where test videos that were held out of class folders begin like training videos, as those of a person do.

    A beginning is what comes before the first `_` or `-` of a name. All files have one, and several classes share some.
    """
    if split.groups or not split.train.layout.endswith(HELD_OUT):
        return None
    sides: list[dict[str, set[int | None]]] = [defaultdict(set), defaultdict(set)]
    for side, videos in zip(sides, (split.train.videos, split.test.videos), strict=True):
        for video in videos:
            first, *others = re.split("[_-]", video.path.stem, maxsplit=1)
            if not (first and others):
                return None
            side[first].add(video.label)
    train, test = sides
    shared = sorted(name for name in train.keys() & test if len(train[name] | test[name]) > 1)
    if len(shared) < FEWEST_BEGINNINGS:
        return None
    named = ", ".join(shared[:3]) + (", …" if len(shared) > 3 else "")
    return (
        f"files in training and test begin alike ({named}): if these are people or cameras, figures are not of unseen "
        f"ones; --folds {min(5, len(train.keys() | test))} --group-by '([^/_-]+)[_-][^/]*$' keeps each on one side"
    )


def measure_labelled(
    arguments: LabelledArguments, data: Path, sources: Sequence[str], *, backbone: str | None = None
) -> list[Collected]:
    """Look at the videos with encoders, in all processes; their features are kept in the folders of their results.

    Returns what was found of each, in the main process. The others need not wait for the arithmetic on it.
    """
    from fima.evaluate.evaluate import collect
    from fima.evaluate.loaded_model import load_subject
    from fima.synthetic.motion_textures import has_masks, load_mask
    from fima.torch_tools import distributed
    from fima.torch_tools.device import choose_device

    config, subjects = arguments.config, []
    try:
        device = distributed.init_from_environment(choose_device(arguments.device))
        for source in sources:
            subject = load_subject(source, config=config, device=device, backbone=backbone)
            folder = evaluation_file(subject).parent
            check_writable(folder)
            subjects.append(replace(subject, cache=folder / "cache"))
        splits = list_labelled(arguments, data, subjects)
        is_main, masks = distributed.is_main(), load_mask if has_masks(data) else None
        if is_main:
            say_aloud(subjects, splits, config)
        with kept_when_interrupted(), progress(f"features of {', '.join(sources)}") as report:
            found = collect(subjects, splits, config, device=device, load_mask=masks, report=report)
    finally:
        distributed.shutdown()
    return found if is_main else []
