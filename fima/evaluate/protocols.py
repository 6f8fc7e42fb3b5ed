"""The evaluation protocols by name, their versions and settings, and one result for all of them."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fima.config.checks import as_flag, require_least
from fima.data.clip_overrides import ClipOverrides
from fima.data.datasets import VideoList
from fima.data.decode.limits import DecodeLimits
from fima.errors import ConfigError, DataError
from fima.files.atomic import write_file

if TYPE_CHECKING:
    from fima.data.eval_clips import ClipSettings

PROTOCOL_TABLE = {
    "evaluate": (1, "a classifier's own head", "a checkpoint of `fima finetune`"),
    "linear": (1, "logistic regression on cached features", "two classes, two training videos of one"),
    "linear_low_shot": (1, "the same on few training videos, several draws", "linear with --low-shot N"),
    "knn": (1, "20 nearest training videos vote", "training videos"),
    "retrieval": (2, "R@1, 5, 10, 20, 50 of test videos among training videos", "training videos"),
    "same_video": (3, "how often the nearest clip is of the same video", "two different clips a video"),
    "clustering": (1, "agreement of k-means clusters with the classes", "two classes, more test videos than classes"),
    "attentive": (1, "one cross-attention block on the cells of the feature map", "an encoder, and as linear"),
    "low_shot_curve": (1, "linear on 1, 2, 5 and 10 training videos a class, five draws", "two classes"),
    "foreground": (3, "share of the activation on moving regions", "an encoder; better with masks"),
    "occlusion": (1, "share of the occlusion sensitivity on moving regions", "an encoder; better with masks"),
    "diagnosis": (
        2,
        "accuracy that remains without order, motion, foreground or background",
        "an encoder, and as linear",
    ),
}
"""Version, what each protocol measures, and what it needs. A version changes when the same encoder on the same data may
get another figure."""
PROTOCOL_VERSIONS = {name: version for name, (version, *_) in PROTOCOL_TABLE.items()}
FEATURE_PROTOCOLS = ("linear", "knn", "retrieval", "same_video")
"""Those that look at cached features of frozen encoders, and are measured by default."""
ALL_FEATURE_PROTOCOLS = (*FEATURE_PROTOCOLS, "clustering", "low_shot_curve")
"""Also those that are measured only by `--protocols`."""
PROTOCOLS = ("evaluate", *ALL_FEATURE_PROTOCOLS, "attentive", "foreground", "occlusion", "diagnosis")
"""What `--protocols` takes."""


SplitName = int | str
"""The number of an official split, or the name of a fold."""
POOLS = ("avg", "max", "avg+max", "grid", "depths")
"""What `--features` takes of a feature map."""
STREAMS = {"rgb": ("rgb",), "difference": ("difference",), "both": ("rgb", "difference")}
"""What `--features` takes feature maps of."""


def parts_of(features: str) -> list[str]:
    """Return the parts that features are made of, such as `rgb:avg`. Raises ConfigError for no such features."""
    stream, colon, pool = features.rpartition(":")
    if pool not in POOLS or (stream if colon else "rgb") not in STREAMS:
        raise ConfigError(f"--features {features}: choose from {', '.join(POOLS)}, with difference: or both: before it")
    return [f"{each}:{part}" for each in STREAMS[stream or "rgb"] for part in pool.split("+")]


def all_parts_of(features: Iterable[str]) -> tuple[str, ...]:
    """Return the parts of several features, each once, as `parts_of`."""
    return tuple(dict.fromkeys(part for each in features for part in parts_of(each)))


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(ClipOverrides):
    """Settings of an evaluation; they are part of its result."""

    protocols: tuple[str, ...] | None = None
    """What to measure: `evaluate`, `linear`, `knn`, `retrieval`, `same_video`, `clustering`, `low_shot_curve`,
    `attentive`, `foreground`, `occlusion`, `diagnosis` (docs/protocols.md). None: `evaluate` and `foreground` for a
    classifier; for an encoder `linear`, `knn`, `retrieval`, `same_video` and `foreground`."""
    num_clips: int = 10
    """Clips per video, evenly spread over it."""
    num_crops: Literal[1, 3] = 1
    """Square crops per clip: the centre, or three along the longer side."""
    ori_resolution: int | None = None
    """The crop's side is 0.875 of this many source pixels. None: of each video's own short side; for `evaluate`, what
    the checkpoint was tested with."""
    features: tuple[str, ...] = ("avg",)
    """How the feature map is pooled: `avg`, `max`, `avg+max`, `grid` (means of 2x2x2 cells), `depths` (averages of
    several stages of the encoder, concatenated); `difference:avg` of the frame difference instead of the RGB clip,
    `both:avg` of both. Of several, the one that does best on held-out training videos is used, and the figures of each
    are named `linear@avg/top1`."""
    other_windows: tuple[str, ...] = ()
    """Other ways to time the clips, such as `stride=2`, `fps=12.5` or `span=0.5`, to choose from as from several
    features; the figures of each are named `linear@avg@stride=2/top1`."""
    cross_validation: str | None = None
    """Column of the table of videos whose values are the folds, such as `fold`; `group` leaves one group out at a
    time."""
    folds: int | None = None
    """Number of folds to make of whole groups, instead of those of a column."""
    group_by: str | None = None
    """What belongs together, such as a person: a column of the table, or a regular expression for the path whose first
    brackets match it, such as `person(\\d+)`. None: the column `group` where there is one."""
    l2_normalise: bool = False
    """L2-normalise the pooled features before the linear probe standardises them."""
    low_shot: int | None = None
    """Also fit the linear probe on only this many training videos, drawn evenly from the classes."""
    low_shot_draws: int = 3
    """Number of such draws; the results are means over them."""
    seed: int = 0
    """Decides which training videos are held out when a probe chooses its settings, the draws, the initial
    clusters of k-means, and the attentive probe's initial weights and batches."""
    batch_size: int = 8
    """Videos at a time."""
    workers: int = 2
    """Processes that decode; 0 decodes in the main one."""
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    """Limits for one video; one that exceeds them is left out and named."""

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [name for name in self.protocols or () if name not in PROTOCOLS]
        if unknown or self.protocols == ():
            wrong = unknown[0] if unknown else "(none)"
            raise ConfigError(f"--protocols {wrong}: choose from {', '.join(PROTOCOLS)}")
        for name in self.features:
            parts_of(name)
        if not self.features or len(set(self.features)) < len(self.features):
            raise ConfigError(f"--features {' '.join(self.features) or '(none)'}: give each once, such as avg both:avg")
        if len(set(self.other_windows)) < len(self.other_windows):
            raise ConfigError(f"--other-windows {' '.join(self.other_windows)}: give each once")
        if self.cross_validation is not None and self.folds is not None:
            raise ConfigError(f"--folds {self.folds}: the folds are those of --cross-validation; give one of the two")
        require_least(self, folds=2, num_clips=1, low_shot=2, low_shot_draws=1, seed=0, batch_size=1, workers=0)

    @property
    def candidates(self) -> tuple[str, ...]:
        """What the protocols on features choose from: the features, and in other windows as `grid@stride=2`."""
        windows = ("", *(f"@{window}" for window in self.other_windows))
        return tuple(f"{features}{window}" for window in windows for features in self.features)

    def clips_for(self, trained: "ClipSettings") -> "ClipSettings":
        """Return the clips to show to an encoder that was trained on such ones; ConfigError for a size too small."""
        clips = self.applied_to(trained)
        return replace(clips, num_clips=self.num_clips, num_crops=self.num_crops, ori_resolution=self.ori_resolution)

    def chosen(self, clips: "ClipSettings", *, classifier: bool, maps: bool = True) -> tuple[str, ...]:
        """Return the protocols to run on such clips, of an encoder that has a classifier, or feature maps.

        Raises ConfigError for a protocol that this checkpoint does not allow, or a setting that no chosen protocol
        looks at.
        """
        # All clips of a video are the same then.
        whole_videos = clips.span >= 1
        default: tuple[str, ...] = ("evaluate",) if classifier else FEATURE_PROTOCOLS
        default += ("foreground",) if maps and clips.frames > 1 else ()
        if whole_videos:
            default = tuple(name for name in default if name != "same_video")
        names = default if self.protocols is None else self.protocols
        if "evaluate" in names and not classifier:
            raise ConfigError("--protocols evaluate: needs a checkpoint of `fima finetune`; this one has no classifier")
        for name in ("foreground", "occlusion", "diagnosis"):
            if name in names and clips.frames < 2:
                raise ConfigError(f"--protocols {name}: needs clips of two frames or more, not --frames {clips.frames}")
        for name in ("attentive", "foreground"):
            if name in names and not maps:
                raise ConfigError(f"--protocols {name}: needs feature maps; this encoder gives one vector a clip")
        for name in self.features:
            if not maps and any(not part.endswith(":avg") for part in parts_of(name)):
                raise ConfigError(f"--features {name}: needs feature maps; this encoder gives one vector a clip")
        if "same_video" in names and whole_videos:
            raise ConfigError(
                "--protocols same_video: a clip covers the whole of its video, so all clips of a video are the same; "
                "give shorter ones, such as --span 0.7"
            )
        if "same_video" in names and self.num_clips < 2:
            others = " ".join(name for name in names if name != "same_video")
            raise ConfigError(
                f"--num-clips {self.num_clips}: the protocol same_video needs at least 2; "
                f"without it: --protocols {others or 'linear'}"
            )
        for name, given in (("low_shot", self.low_shot is not None), ("l2_normalise", self.l2_normalise)):
            if given and "linear" not in names:
                raise ConfigError(f"{as_flag(name)}: is a setting of the protocol linear; add it to --protocols")
        *first, last = ALL_FEATURE_PROTOCOLS
        for name in ("features", "other_windows") if set(names).isdisjoint(ALL_FEATURE_PROTOCOLS) else ():
            if getattr(self, name) != getattr(EvaluationConfig(), name):
                raise ConfigError(
                    f"{as_flag(name)}: only {', '.join(first)} and {last} look at it; add one of them to --protocols"
                )
        return names


@dataclass(frozen=True, kw_only=True)
class SplitLists:
    """The lists of one split."""

    train: VideoList
    test: VideoList
    extra_tests: Mapping[str, VideoList] = field(default_factory=dict)
    """Further test lists by name, scored by the same probe and neighbours."""
    groups: Mapping[Path, str] = field(default_factory=dict)
    """Which videos belong together; empty where that is not known."""

    @property
    def tests(self) -> dict[str, VideoList]:
        """All test lists by name, `test` first."""
        return {"test": self.test, **self.extra_tests}

    @property
    def all(self) -> dict[str, VideoList]:
        """All lists by name."""
        return {"train": self.train, **self.tests}

    def check_labels(self) -> None:
        """Raise DataError where a list has no labels or other classes than the training list."""
        for name, videos in self.all.items():
            unlabelled = [video.path for video in videos.videos if video.label is None]
            if not videos.classes or unlabelled:
                example = f", such as {unlabelled[0]}" if unlabelled else ""
                raise DataError(
                    f"{videos.root}: the {name} list has videos without a class{example}; evaluation needs labels"
                )
            if videos.classes != self.train.classes:
                raise DataError(f"{videos.root}: the classes of the {name} list are not those of {self.train.root}")


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """Figures in percent, with everything that they depend on."""

    figures: dict[str, float]
    """By name: `<protocol>/<figure>`, and `<protocol>/<extra test>/<figure>` for further test lists; of several splits,
    the mean over them."""
    chance: dict[str, float]
    """What guessing gets, by the names of `figures`: of an accuracy, the most frequent training classes."""
    encoder: dict[str, Any]
    protocols: dict[str, dict[str, Any]]
    """By protocol: its version and its settings."""
    data: dict[str, dict[str, Any]]
    """By list, of several splits by `split <number>` first: its summary, the number of videos evaluated, and the files
    that could not be decoded."""
    versions: dict[str, str]
    """Of fima, torch and Python."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What the protocols chose on the way, such as the regularisation and the accuracies that decided it; of several
    splits by `split <number>` first."""
    sd: dict[str, float] = field(default_factory=dict)
    """Sample standard deviation of the figures that are means: over the splits, or over draws of training videos."""
    splits: dict[str, dict[str, float]] = field(default_factory=dict)
    """The figures of each split by its number, or of each fold by its name, where there are several."""
    unit: str = "split"
    """`fold` for a cross-validation; its figures are means over the folds weighted by their test videos."""
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    """95 % intervals of the figures, by bootstrap over the groups of the test videos, where these are known."""
    num_groups: int | None = None
    grouping: dict[str, str | int] = field(default_factory=dict)
    """What folds and groups are: `cross_validation`, `folds` and `group_by` of the settings, where they were given."""
    looked_at: dict[str, Any] = field(default_factory=dict)
    """`clips`; the `features` to choose from (`--features`, `--other-windows`), where a protocol looks at them; and
    settings of the probe that are not the usual ones."""
    seed: int = 0
    lists_hash: str = ""
    """Of all lists of all splits or folds together: the same where the same videos were trained on and tested."""
    verdict: str = ""
    """Of the protocol `diagnosis`: what remains when something is taken away, in a sentence."""

    def left_out(self) -> dict[str, str]:
        """Return the files that could not be decoded, with the reasons."""
        lists = self.data.values()
        every = [each for found in lists for each in ([found] if "root" in found else found.values())]
        return {video["path"]: video["reason"] for each in every for video in each.get("undecodable", ())}

    def save(self, path: Path) -> None:
        """Write as JSON, in one piece."""
        write_file(path, json.dumps(asdict(self), indent=2) + "\n")


def is_trivial(figure: str, results: Iterable[tuple[Mapping[str, float], Mapping[str, float]]]) -> bool:
    """Whether a figure is 100 % because any guess is right, as top-5 of five classes, in the results that have it.

    They are given by their `figures` and their `chance`.
    """
    levels = [min(figures[figure], chance.get(figure, 0)) for figures, chance in results if figure in figures]
    return min(levels, default=0) >= 100 - 1e-9


def chance_shown(figure: str, chances: Iterable[Mapping[str, float]]) -> str:
    """Return what guessing gets of a figure, in percent, by the `chance` of several results: a range where they differ.

    They differ where results are of other classes or other videos, and that of `foreground` with the clips. Empty where
    none of them has the figure.
    """
    levels = sorted(chance[figure] for chance in chances if figure in chance)
    return " to ".join(dict.fromkeys(f"{level:.1f}" for level in (*levels[:1], *levels[-1:])))
