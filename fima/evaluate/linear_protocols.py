"""The protocols that fit linear probes: on all training videos, and on few of them."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from torch import Tensor

from fima.data.datasets import VideoList
from fima.data.subsets import low_shot, per_class
from fima.errors import ConfigError
from fima.evaluate.linear import INVERSE_REGULARISATIONS, fit_linear_probe
from fima.evaluate.measured import FeatureSets, Measured, averaged, classified, described
from fima.evaluate.protocols import EvaluationConfig

SHOTS = (1, 2, 5, 10)
"""Training videos a class of the low-shot curve."""
SHOT_DRAWS = 5
NAMED = 5
"""Classes that a warning names before it counts the others."""
ONE_SHOT = 1.0
"""Its C where a class has one training video, which leaves none to choose it on."""


def measure_linear(
    sets: FeatureSets, config: EvaluationConfig, candidates: Sequence[float] = INVERSE_REGULARISATIONS
) -> Measured:
    """Fit the linear probe, with C of the candidates, and score the test videos; raises as `fit_linear_probe`."""
    probe = fit_linear_probe(
        sets.train_rows,
        sets.train.labels,
        num_classes=sets.num_classes,
        seed=config.seed,
        l2_normalise=config.l2_normalise,
        candidates=candidates,
        groups=sets.train_groups,
    )
    return classified(
        {name: (probe.scores(rows), labels) for name, rows, labels in sets.test_rows()},
        sets.train.labels,
        settings={
            "features": described(sets),
            "classifier": "logistic regression (L2, L-BFGS) on features averaged over clips and crops, standardised",
            "l2_normalise": config.l2_normalise,
            "dropout": 0,
            "augmentation": "none",
            "candidates": list(candidates),
            "selection": probe.selection,
            "seed": config.seed,
        },
        notes={
            "inverse_regularisation": probe.inverse_regularisation,
            "held_out_accuracies": probe.held_out_accuracies,
        },
    )


def check_low_shot(count: int, labels: Tensor, where: str) -> None:
    """Raise ConfigError, which names the list by `where`, for more videos than labels (V,), or one a class at most."""
    num_classes = len(set(labels.tolist()))
    if not num_classes < count <= len(labels):
        limits = f"more than its {num_classes} classes, so that C can be chosen, and at most its {len(labels)} videos"
        raise ConfigError(f"--low-shot {count}: {where}takes {limits}")


def measure_low_shot(sets: FeatureSets, config: EvaluationConfig, count: int) -> Measured:
    """The linear probe on a few training videos; the mean over several draws of them."""
    decodable = _decodable(sets)
    seeds = range(config.seed, config.seed + config.low_shot_draws)
    draws = [measure_linear(_on(sets, low_shot(decodable, count, seed)), config) for seed in seeds]
    return averaged(
        [draw.figures for draw in draws],
        chance=sets.chance,
        settings={
            **draws[0].settings,
            "num_videos": count,
            "num_draws": len(draws),
            "draw": "as evenly from the classes as possible",
        },
        notes={"inverse_regularisation": [draw.notes["inverse_regularisation"] for draw in draws]},
        hits=[draw.hits for draw in draws],
    )


def measure_low_shot_curve(sets: FeatureSets, config: EvaluationConfig) -> Measured:
    """The linear probe on 1, 2, 5 and 10 training videos of each class; of a class with fewer, on all of them.

    A size that no class has is left out. C is chosen within the drawn videos. Raises as `fit_linear_probe`.
    """
    decodable = _decodable(sets)
    sizes = [shots for shots in SHOTS if shots <= max(_counts(decodable).values())]
    draws: list[dict[int, Measured]] = [{} for _ in range(SHOT_DRAWS)]
    for number, draw in enumerate(draws):
        for shots in sizes:
            candidates = INVERSE_REGULARISATIONS if shots > 1 else (ONE_SHOT,)
            drawn = per_class(decodable, shots, config.seed + number)
            draw[shots] = measure_linear(_on(sets, drawn), config, candidates)
    figures = [{f"{n}/{name}": value for n in sizes for name, value in draw[n].figures.items()} for draw in draws]
    chance = sets.chance
    return averaged(
        figures,
        chance={name: chance[name.partition("/")[2]] for name in figures[0]},
        settings={
            **draws[0][sizes[-1]].settings,
            "videos_per_class": sizes,
            "num_draws": SHOT_DRAWS,
            "one_video_per_class": f"C = {ONE_SHOT:g}, as none is left to choose it on",
        },
        notes={
            "classes_with_fewer": {str(shots): _fewer(decodable, shots) for shots in sizes},
            "left_out": [shots for shots in SHOTS if shots not in sizes],
        },
        hits=[{f"{n}/{name}": value for n in sizes for name, value in draw[n].hits.items()} for draw in draws],
    )


def curve_warnings(lists: Iterable[VideoList]) -> list[str]:
    """Say which classes of some training lists have fewer videos than the low-shot curve takes, and what is done."""
    said, lists = [], list(lists)
    for shots in SHOTS:
        fewer = list(dict.fromkeys(name for videos in lists for name in _fewer(videos, shots)))
        what = f"low_shot_curve: fewer than {shots} training videos"
        if all(max(_counts(videos).values()) < shots for videos in lists):
            said.append(f"{what} of every class; this size is left out")
        elif fewer:
            where = " in some split" if len(lists) > 1 else ""
            more = f" and {len(fewer) - NAMED} more classes" if len(fewer) > NAMED else ""
            said.append(f"{what} of {', '.join(fewer[:NAMED])}{more}{where}; all of them are taken")
    return said


def _counts(videos: VideoList) -> Counter[str]:
    """Videos by class."""
    return Counter(videos.classes[video.label] for video in videos.videos if video.label is not None)


def _fewer(videos: VideoList, shots: int) -> list[str]:
    """Classes that have some videos, but fewer than that."""
    return sorted(name for name, count in _counts(videos).items() if count < shots)


def _decodable(sets: FeatureSets) -> VideoList:
    """The training videos that have features."""
    there = set(sets.train.paths)
    return replace(sets.videos, videos=[video for video in sets.videos.videos if str(video.path) in there])


def _on(sets: FeatureSets, part: VideoList) -> FeatureSets:
    """The same with fewer training videos."""
    row_of = {path: row for row, path in enumerate(sets.train.paths)}
    return replace(sets, train=sets.train.rows([row_of[str(video.path)] for video in part.videos]))
