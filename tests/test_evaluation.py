"""Evaluations as wholes: figures that are certain, no look at test labels, low-shot draws, settings, records."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fima.data.datasets import Video, VideoList, list_videos
from fima.data.eval_clips import ClipSettings
from fima.data.subsets import low_shot
from fima.errors import ConfigError, DataError
from fima.evaluate.clustering import clustering
from fima.evaluate.evaluate import collect
from fima.evaluate.feature_protocols import measure
from fima.evaluate.features import Features, FeatureSource, raw_difference_features
from fima.evaluate.loaded_model import Subject
from fima.evaluate.measured import FeatureSets
from fima.evaluate.protocols import EvaluationConfig, SplitLists
from fima.synthetic.motion_textures import MotionTextureSettings, list_counterparts, make_motion_textures
from tests.evaluation_data import BRIGHTNESS, encoder_of, gaussians

CPU = torch.device("cpu")
CLIPS = ClipSettings(frames=4, crop_size=32, num_clips=2)
CONFIG = EvaluationConfig(num_clips=2, workers=0)
RAW_DIFFERENCE = FeatureSource(name="raw frame differences", pool=raw_difference_features)


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluation") / "motion"
    make_motion_textures(out, MotionTextureSettings(num_train=40, num_test=20, size_px=40, num_frames=12), workers=0)
    return out


def evaluate(
    train: VideoList,
    test: VideoList,
    folder: Path,
    *,
    source: FeatureSource = RAW_DIFFERENCE,
    extra: dict[str, VideoList] | None = None,
    config: EvaluationConfig = CONFIG,
) -> dict[str, Any]:
    lists = SplitLists(train=train, test=test, extra_tests=extra or {})
    lists.check_labels()
    clips = replace(CLIPS, num_crops=config.num_crops)
    subject = Subject(encoder=encoder_of(source), clips=clips, has_maps=False, cache=folder / "cache")
    (collected,) = collect([subject], {1: lists}, config, device=CPU)
    collected.result()[0].save(folder / "result.json")
    loaded: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return loaded


def test_evaluation_result_says_everything(benchmark: Path, tmp_path: Path) -> None:
    train, test = list_videos(benchmark, "train"), list_videos(benchmark, "test")
    result = evaluate(train, test, tmp_path, extra=list_counterparts(benchmark))
    figures = result["figures"]
    for name in (
        "linear/top1",
        "linear/top5",
        "linear/swapped/top1",
        "linear/removed/top1",
        "knn/top1",
        "retrieval/R@20",
    ):
        assert 0 <= figures[name] <= 100
    assert figures.keys() == result["chance"].keys()
    assert result["chance"]["linear/top1"] == pytest.approx(10)
    # Motion tells the class and differences show motion: three times what guessing gets, 8 of 20 videos when written.
    assert figures["linear/top1"] >= 30
    versions = {name: protocol["version"] for name, protocol in result["protocols"].items()}
    assert versions == {"linear": 1, "knn": 1, "retrieval": 2, "same_video": 3}
    assert result["protocols"]["linear"]["clips"] == vars(CLIPS)
    assert result["data"]["swapped"]["num_evaluated"] == result["data"]["removed"]["num_evaluated"] == 20
    assert result["data"]["test"]["split_index"] == 1
    assert {"fima", "torch", "python"} <= result["versions"].keys()
    assert result["sd"] == result["splits"] == {}


@pytest.mark.parametrize("num_crops", [1, 3])
def test_features_that_tell_the_class_give_certain_figures(num_crops: int, splits: Path, tmp_path: Path) -> None:
    """Brightness is the class: every video is found, and with rotated test labels none is."""
    train, test = list_videos(splits, "train"), list_videos(splits, "test")
    config = EvaluationConfig(num_clips=2, workers=0, num_crops=3 if num_crops == 3 else 1)
    figures = evaluate(train, test, tmp_path, source=BRIGHTNESS, config=config)["figures"]
    assert [figures[name] for name in ("linear/top1", "linear/top5", "knn/top1", "retrieval/R@1")] == [100] * 4
    wrong = replace(test, videos=[replace(video, label=((video.label or 0) + 1) % 3) for video in test.videos])
    figures = evaluate(train, wrong, tmp_path, source=BRIGHTNESS, config=config)["figures"]
    assert [figures[name] for name in ("linear/top1", "knn/top1", "retrieval/R@1")] == [0] * 3


@pytest.mark.parametrize(("common", "tested", "expected"), [(0, 0, 60.0), (0, 1, 100 / 3)])
def test_chance_is_what_the_most_frequent_class_gets(
    common: int, tested: int, expected: float, splits: Path, tmp_path: Path
) -> None:
    """Of five test videos three are of one class, and of the training videos all but one of each other class."""
    train, test = list_videos(splits, "train"), list_videos(splits, "test")

    def of_class(videos: VideoList, label: int, count: int) -> list[Video]:
        return [video for video in videos.videos if video.label == label][:count]

    few = [video for label in range(3) for video in of_class(train, label, 3 if label == common else 2)]
    asked = [video for label in range(3) for video in of_class(test, label, 1) * (3 if label == tested else 1)]
    lists = replace(train, videos=few), replace(test, videos=asked)
    chance = evaluate(*lists, tmp_path, source=BRIGHTNESS, config=replace(CONFIG, low_shot=4))["chance"]
    names = ("linear/top1", "linear_low_shot/top1", "knn/top1")
    assert [chance[name] for name in names] == pytest.approx([expected] * 3)
    assert chance["linear/top5"] == 100


def test_same_video_looks_at_one_crop_of_a_clip(benchmark: Path, tmp_path: Path) -> None:
    train, test = list_videos(benchmark, "train"), list_videos(benchmark, "test")
    config = EvaluationConfig(protocols=("same_video",), num_clips=2, workers=0)
    one, three = (
        evaluate(train, test, tmp_path, config=replace(config, num_crops=num_crops))["figures"] for num_crops in (1, 3)
    )
    assert one == three


def test_test_labels_change_neither_the_probe_nor_its_regularisation(benchmark: Path, tmp_path: Path) -> None:
    train, test = list_videos(benchmark, "train"), list_videos(benchmark, "test")
    config = replace(CONFIG, low_shot=20, low_shot_draws=2)
    rotated = [Video(path=video.path, label=((video.label or 0) + 1) % 10) for video in test.videos]
    other = VideoList(videos=rotated, classes=test.classes, root=test.root, split="test", layout="rotated labels")
    plain, changed = (evaluate(train, videos, tmp_path, config=config) for videos in (test, other))
    assert plain["notes"]["linear"] == changed["notes"]["linear"]
    chosen = [result["notes"]["linear_low_shot"]["inverse_regularisation"] for result in (plain, changed)]
    assert chosen[0] == chosen[1]
    assert plain["figures"]["same_video/train"] == changed["figures"]["same_video/train"]
    assert plain["figures"]["linear/top1"] != changed["figures"]["linear/top1"]


def feature_sets(num_per_class: int = 30, num_classes: int = 4) -> FeatureSets:
    """Gaussians as the features of videos that are not there."""
    sets = {}
    for seed, name in enumerate(("train", "test")):
        rows, labels = gaussians(num_per_class, num_classes, seed=seed, spread=4.0)
        paths = [f"{name}{place}" for place in range(len(rows))]
        sets[name] = Features(pooled=rows[:, None], labels=labels, paths=paths, undecodable=[])
    train = sets["train"]
    pairs = zip(train.paths, train.labels.tolist(), strict=True)
    videos = [Video(path=Path(path), label=label) for path, label in pairs]
    # The list has one video more than could be decoded.
    listed = VideoList(
        videos=[Video(path=Path("broken"), label=0), *videos],
        classes=[str(number) for number in range(num_classes)],
        root=Path(),
        split="train",
        layout="made up",
    )
    return FeatureSets(train=train, tests={"test": sets["test"]}, videos=listed)


def test_low_shot_probe_is_the_probe_of_evenly_drawn_videos() -> None:
    sets = feature_sets()
    config = replace(CONFIG, low_shot=16, low_shot_draws=3, seed=5)
    found = measure("linear", sets, CLIPS, config)
    low = found["linear_low_shot"]
    assert (low.settings["num_videos"], low.settings["num_draws"]) == (16, 3)
    decodable = replace(sets.videos, videos=sets.videos.videos[1:])
    expected = []
    for seed in (5, 6, 7):
        drawn = low_shot(decodable, 16, seed)
        assert sorted(video.label or 0 for video in drawn.videos) == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
        rows = torch.tensor([sets.train.paths.index(str(video.path)) for video in drawn.videos])
        part = replace(sets.train, pooled=sets.train.pooled[rows], labels=sets.train.labels[rows])
        alone = measure("linear", replace(sets, train=part), CLIPS, replace(CONFIG, seed=5))
        expected.append(alone["linear"].figures["top1"])
    assert low.notes["figures"]["top1"] == expected
    assert len(set(expected)) > 1
    assert low.figures["top1"] == pytest.approx(sum(expected) / 3)
    assert low.sd["top1"] == pytest.approx(torch.tensor(expected).std().item(), rel=1e-5)
    assert low.figures["top1"] < found["linear"].figures["top1"]
    single = measure("linear", sets, CLIPS, replace(config, low_shot_draws=1))["linear_low_shot"]
    assert single.sd == {}
    with pytest.raises(DataError, match="500 videos asked for"):
        measure("linear", sets, CLIPS, replace(config, low_shot=500))


def test_clustering_is_the_mean_over_seeds_of_the_test_videos() -> None:
    sets = feature_sets()
    test = sets.tests["test"]
    found = measure("clustering", sets, CLIPS, replace(CONFIG, seed=2))["clustering"]
    by_seed, chance = clustering(test.per_video, test.labels, 2)
    for name in ("NMI", "ARI", "accuracy"):
        values = torch.tensor([each[name] for each in by_seed], dtype=torch.float64)
        assert found.figures[name] == pytest.approx(values.mean().item())
        assert found.sd[name] == pytest.approx(values.std().item())
        assert found.chance[name] == chance[name] < found.figures[name]
    shuffled = replace(sets, train=replace(sets.train, pooled=sets.train.pooled.flip(0)))
    assert measure("clustering", shuffled, CLIPS, replace(CONFIG, seed=2))["clustering"].figures == found.figures


def test_features_for_clustering_are_chosen_on_the_training_videos() -> None:
    """The maximum tells the classes of the training videos, the average those of the test videos."""
    sets = feature_sets()
    noise = torch.randn(sets.train.pooled.shape, generator=torch.Generator().manual_seed(0))
    parts = ("rgb:avg", "rgb:max")
    train = replace(sets.train, pooled=torch.cat([noise, sets.train.pooled], dim=-1), parts=parts)
    test = replace(sets.tests["test"], pooled=torch.cat([sets.tests["test"].pooled, noise], dim=-1), parts=parts)
    config = replace(CONFIG, features=("avg", "max"))
    found = measure("clustering", replace(sets, train=train, tests={"test": test}), CLIPS, config)
    assert found["clustering"].notes["features"] == "max"
    assert found["clustering"].figures == found["clustering@max"].figures
    assert found["clustering@avg"].figures["NMI"] > found["clustering@max"].figures["NMI"]


def test_lists_must_be_labelled_and_of_the_same_classes(benchmark: Path, tmp_path: Path) -> None:
    train, test = list_videos(benchmark, "train"), list_videos(benchmark, "test")
    bare = [Video(path=video.path, label=None) for video in test.videos]
    without = VideoList(videos=bare, classes=[], root=test.root, split="test", layout="bare")
    with pytest.raises(DataError, match="the test list has videos without a class"):
        evaluate(train, without, tmp_path)
    renamed = VideoList(videos=test.videos, classes=test.classes[::-1], root=test.root, split="test", layout="renamed")
    with pytest.raises(DataError, match="the classes of the test list"):
        evaluate(train, renamed, tmp_path)


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"protocols": ("lineal",)}, "--protocols lineal"),
        ({"protocols": ()}, "--protocols .none."),
        ({"num_clips": 0}, "--num-clips 0"),
        ({"low_shot": 1}, "--low-shot 1"),
        ({"low_shot_draws": 0}, "--low-shot-draws 0"),
    ],
)
def test_wrong_settings_name_the_flag(settings: dict[str, Any], flag: str) -> None:
    with pytest.raises(ConfigError, match=flag):
        EvaluationConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"protocols": ("evaluate",)}, "no classifier"),
        ({"protocols": ("foreground",)}, "foreground: needs feature maps"),
        ({"protocols": ("attentive",)}, "attentive: needs feature maps"),
        ({"num_clips": 1}, "same_video needs at least 2; without it: --protocols linear knn retrieval"),
        ({"protocols": ("knn",), "low_shot": 5}, "--low-shot: is a setting of the protocol linear"),
        ({"protocols": ("knn",), "l2_normalise": True}, "--l2-normalise: is a setting"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        EvaluationConfig(**settings).chosen(CLIPS, classifier=False, maps=False)


def test_what_is_measured_by_default() -> None:
    config = EvaluationConfig()
    of_features = ("linear", "knn", "retrieval", "same_video")
    assert config.chosen(CLIPS, classifier=False) == (*of_features, "foreground")
    assert config.chosen(CLIPS, classifier=False, maps=False) == of_features
    assert config.chosen(CLIPS, classifier=True) == ("evaluate", "foreground")
    whole, still = replace(CLIPS, span=1.0), replace(CLIPS, frames=1)
    assert config.chosen(whole, classifier=False) == ("linear", "knn", "retrieval", "foreground")
    assert config.chosen(still, classifier=False) == of_features
    with pytest.raises(ConfigError, match=r"all clips of a video are the same; .* --span 0\.7"):
        EvaluationConfig(protocols=("same_video",)).chosen(whole, classifier=False)
    with pytest.raises(ConfigError, match="diagnosis: needs clips of two frames or more, not --frames 1"):
        EvaluationConfig(protocols=("diagnosis",)).chosen(still, classifier=False)
