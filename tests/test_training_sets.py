"""Several sets in one training, and long recordings: what an epoch has, in which order, and a resumed run."""

import itertools
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fima.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from fima.checkpoints.run_folder import RunFolder
from fima.cli import main
from fima.config import ClassifierConfig, DataConfig, FinetuneConfig, PretrainConfig
from fima.data.clips import Part, window_starts
from fima.data.epoch_plan import EpochPlan, item_generator
from fima.data.loader import PretrainDataset, build_pretrain_loader
from fima.data.training_sets import TrainingSet, training_set, training_videos
from fima.errors import ConfigError, DataError
from fima.library.clip_fit import with_timing_checked
from fima.library.windows import videos_of_epoch
from fima.method.fima import FIMA
from fima.train.finetune_setup import find_lists
from fima.train.health import check_health
from fima.train.pretrain import pretrain
from fima.train.resume import fingerprint
from tests.small_runs import make_videos, read_lines, with_settings
from tests.test_frame_folders import write_pictures
from tests.video_files import write_video

TIMES = ("seconds", "videos_per_second", "data_wait_share")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[TrainingSet]:
    """Two sets: eight videos for training and four; the second one counts three times as much, at another stride."""
    root = tmp_path_factory.mktemp("sets")
    first, second = make_videos(root / "first", num_per_class=5), make_videos(root / "second:9", num_per_class=2)
    return [TrainingSet(root=first), TrainingSet(root=second, weight=3.0, timing={"stride": 1.0})]


def videos_in(plan: EpochPlan, seed: int, epoch: int) -> list[int]:
    return [plan.video_of(int(place)) for place in plan.order(seed, epoch)]


def test_a_plain_epoch_has_each_video_once_in_the_order_of_seed_and_epoch() -> None:
    plan = EpochPlan.plain(7)
    for epoch in range(3):
        assert plan.order(5, epoch).tolist() == item_generator(0, 5, epoch).permutation(7).tolist()
    assert plan.is_plain
    assert plan.part_of(3, 3) == Part(0, 1)


@pytest.mark.parametrize(
    ("mixing", "weights", "drawn"),
    [
        ("proportional", (1.0, 1.0), (10, 4)),
        ("proportional", (0.5, 2.5), (5, 10)),
        ("balanced", (1.0, 1.0), (7, 7)),
        ("balanced", (1.0, 6.0), (2, 12)),
    ],
)
def test_sets_come_by_their_weights_and_each_item_as_often_as_its_neighbours(
    mixing: str, weights: tuple[float, float], drawn: tuple[int, int]
) -> None:
    """Ten videos and four; over twenty epochs no item of a set is more than one time ahead of another."""
    plan = EpochPlan.of_sets([10, 4], ["a", "b"]).mixed(weights, mixing)  # type: ignore[arg-type]
    assert plan.drawn == drawn
    assert not plan.is_plain
    seen = Counter[int]()
    for epoch in range(20):
        places = plan.order(3, epoch)
        assert len(set(places.tolist())) == len(places) == plan.num_samples
        here = videos_in(plan, 3, epoch)
        assert (sum(video < 10 for video in here), sum(video >= 10 for video in here)) == drawn
        seen.update(here)
        for videos in (range(10), range(10, 14)):
            assert max(seen[video] for video in videos) - min(seen[video] for video in videos) <= 1
    assert videos_in(plan, 3, 4) == videos_in(plan, 3, 4) != videos_in(plan, 3, 5)
    assert videos_in(plan, 3, 4) != videos_in(plan, 4, 4)
    assert (plan.set_of(9), plan.set_of(10)) == (range(10), range(10, 14))


def test_a_long_video_comes_in_parts_that_cover_it() -> None:
    """Videos of one, four and two windows: the starts of all parts are all starts, none twice."""
    plan = replace(EpochPlan.plain(3), windows=np.array([1, 4, 2])).mixed([1.0], "proportional")
    parts = [
        (plan.video_of(int(place)), plan.part_of(int(place), plan.video_of(int(place)))) for place in plan.order(0, 0)
    ]
    assert Counter(parts) == Counter(
        [(0, Part(0, 1)), *((1, Part(n, 4)) for n in range(4)), *((2, Part(n, 2)) for n in range(2))]
    )
    assert plan.part_of(2, 0) == Part(0, 1)
    assert plan.part_of(0, 1).count == 4
    found = []
    for number in range(4):
        starts = set[int]()
        for seed in range(200):
            pair = window_starts(50, 11, np.random.default_rng(seed), part=Part(number, 4))
            assert pair[0] != pair[1]
            starts.update(pair)
        found.append(sorted(starts))
    assert list(itertools.chain(*found)) == list(range(40))
    assert window_starts(5, 8, np.random.default_rng(0), part=Part(2, 4)) == (0, 0)
    near = window_starts(50, 4, np.random.default_rng(0), sampling="near", part=Part(1, 4))
    assert 11 <= near[0] <= near[1] <= 23


def test_weights_are_told_from_paths(tmp_path: Path) -> None:
    (tmp_path / "a:2").mkdir()
    plain, both = str(tmp_path / "a:2"), str(tmp_path / "a:2:0.5")
    assert training_set(plain) == TrainingSet(root=Path(plain))
    assert training_set(both) == TrainingSet(root=Path(plain), weight=0.5)
    assert training_set("a:1e2") == TrainingSet(root=Path("a"), weight=100.0)
    assert training_set("a:b") == TrainingSet(root=Path("a:b"))
    assert training_set("a") == TrainingSet(root=Path("a"))
    timed = training_set("a:2@span=0.5-1@frame-rate=25")
    assert timed == TrainingSet(root=Path("a"), weight=2.0, timing={"span": (0.5, 1.0), "frame_rate": 25.0})
    assert training_set("me@host").root == Path("me@host")
    (tmp_path / "b@fps=2").mkdir()
    assert training_set(str(tmp_path / "b@fps=2")) == TrainingSet(root=tmp_path / "b@fps=2")
    for word, message in (
        ("a@rate=2", "after @ goes stride=2"), ("a@fps=x", "after @ goes"), ("a@fps=1-2", "after @ goes"),
        ("a@stride=0", "stride must be greater than 0"), ("a@span=1-0.5", "the smaller first"),
        ("a@fps=5@stride=3", "give one of the three"), ("a:2@fps=0", "fps must be greater than 0"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=f"^{word}: .*{message}"):
            training_set(word)
    with pytest.raises(ConfigError, match="stride inf: must be greater than 0, and finite"):
        DataConfig(stride=float("inf"))
    for word in ("a:0", "a:-1", "a:nan", "a:inf"):
        with pytest.raises(ConfigError, match=f"{word}: a weight must be greater than 0"):
            training_set(word)


def test_sets_are_listed_one_after_the_other_with_classes_of_their_own(sets: list[TrainingSet]) -> None:
    listed = training_videos(sets, DataConfig())
    assert listed.classes == ["first/a", "first/b", "second:9/a", "second:9/b"]
    assert [video.path.parts[-3] for video in listed.videos] == ["first"] * 8 + ["second:9"] * 4
    assert [video.label for video in listed.videos] == [0] * 4 + [1] * 4 + [2] * 2 + [3] * 2
    assert listed.epoch.drawn == (8, 12)
    assert {name: len(part.videos) for name, part in listed.by_set().items()} == {"first": 8, "second:9": 4}
    assert [each["num_drawn"] for each in listed.describe()["sets"]] == [8, 12]
    balanced = training_videos(sets, DataConfig(mixing="balanced"))
    assert balanced.epoch.drawn == (3, 9)
    doubled = videos_of_epoch(sets, DataConfig(windows_per_video=2))
    assert (doubled.epoch.drawn, doubled.epoch.names) == ((16, 24), ("first", "second:9"))


def test_each_set_has_clips_of_its_own_timing(tmp_path: Path) -> None:
    """Frame n is as bright as 5·n; of the run, five frames a second: every fifth one of the last set."""
    expected = {
        "first@stride=6": (25, 48, [0, 6, 12, 18], [0, 3, 6, 9]),
        "second@fps=2.5": (10, 40, [0, 4, 8, 12], [0, 2, 4, 6]),
        "third@span=1": (25, 16, [0, 4, 8, 12], [0, 2, 4, 6]),
        "fourth": (25, 48, [0, 5, 10, 15], [0, 2, 5, 7]),
    }
    for word, (fps, num_frames, _, _) in expected.items():
        frames = np.full((num_frames, 32, 32, 3), 5 * np.arange(num_frames)[:, None, None, None], dtype=np.uint8)
        write_video(tmp_path / word.partition("@")[0] / "v.mkv", frames, codec="ffv1", fps=fps)
    data = DataConfig(frames=4, crop_size=16, fps=5.0, workers=0)
    listed = training_videos([training_set(str(tmp_path / word)) for word in expected], data)
    assert [part["num_videos"] for part in listed.describe()["sets"]] == [1] * 4
    assert [part.get("span") for part in listed.describe()["sets"]] == [None, None, [1.0, 1.0], None]
    dataset = PretrainDataset(with_timing_checked(listed, data), data, seed=3)
    for number, (_, _, full, early) in enumerate(expected.values()):
        for clip in (dataset[0, number].a, dataset[0, number].b):
            shown = [(view[0, 0, :, 0, 0].double() / 5).round().int().tolist() for view in (clip.full, clip.early)]
            start = shown[0][0]
            assert shown == [[start + step for step in full], [start + step for step in early]]
    too_long = [training_set(f"{tmp_path}/first@stride=20"), training_set(f"{tmp_path}/fourth")]
    listed = training_videos(too_long, data)
    with pytest.raises(ConfigError, match=r"^first: --data.stride 20: a clip of 4 frames is longer than any"):
        with_timing_checked(listed, data)
    with pytest.raises(ConfigError, match=r"first@stride=: is for one of several sets; give --data.stride instead"):
        training_videos([training_set(f"{tmp_path}/first@stride=6")], data)


def test_videos_held_out_are_of_every_set_and_class_and_of_no_epoch(sets: list[TrainingSet]) -> None:
    data = DataConfig(held_out_share=0.25)
    kept = training_videos(sets, data, seed=1)
    assert kept.held_out is not None
    assert [video.label for video in kept.held_out.videos] == [0, 1, 2, 3]
    assert {name: len(part.videos) for name, part in kept.held_out.by_set().items()} == {"first": 2, "second:9": 2}
    paths = [[video.path for video in part.videos] for part in (kept, kept.held_out)]
    assert sorted(paths[0] + paths[1]) == sorted(video.path for video in training_videos(sets, DataConfig()).videos)
    assert kept.epoch.drawn == (6, 6)
    alone = training_videos(sets[:1], data, seed=1).held_out
    assert alone is not None
    assert [video.path for video in alone.videos] == paths[1][:2]
    assert training_videos(sets, DataConfig()).held_out is None
    rarely = training_videos([replace(sets[0], weight=0.2), sets[1]], data, seed=1)
    assert rarely.epoch.drawn == (1, 6)
    assert rarely.held_out is not None, "0.2 x 2 videos would give an epoch no sample, but are in none"


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({}, {"dataset": "folder"}, "--data.dataset folder: goes with one folder, and 2 are given"),
        ({"weight": 1e-3}, {}, "second:9:0.001: gives an epoch no sample"),
        ({"same": True}, {}, "first: given twice"),
        ({"single": True}, {}, "second:9:3: a weight compares several sets"),
    ],
)
def test_sets_that_make_no_sense(
    sets: list[TrainingSet], change: dict[str, object], settings: dict[str, object], message: str
) -> None:
    first, second = sets
    given = {
        "weight": [first, TrainingSet(root=second.root, weight=1e-3)], "same": [first, first], "single": [second]
    }.get(next(iter(change), ""), sets)  # fmt: skip
    with pytest.raises(ConfigError, match=message):
        training_videos(given, DataConfig(**settings))  # type: ignore[arg-type]


def test_a_video_that_cannot_be_decoded_is_replaced_by_one_of_its_set(sets: list[TrainingSet], tmp_path: Path) -> None:
    broken = make_videos(tmp_path / "broken", num_per_class=2)
    first = sorted(broken.rglob("*.avi"))[0]
    first.write_bytes(b"no video")
    listed = training_videos([sets[0], TrainingSet(root=broken)], DataConfig())
    data = DataConfig(frames=2, crop_size=16, workers=0)
    loader = build_pretrain_loader(listed, data, batch_size=4, seed=0)
    for epoch in range(3):
        loader.set_epoch(epoch)
        paths = [path for batch in loader for path in batch.paths]
        assert sum("broken" in path for path in paths) == 4
        assert str(first) not in paths


def config(epochs: int) -> PretrainConfig:
    made = with_settings("data", windows_per_video=2, mixing="balanced")
    made = with_settings("method", made, exclude_same_video=True, cell_weight=0.0)
    return with_settings("optim", made, epochs=epochs, schedule="constant")


@pytest.fixture(scope="module")
def whole(sets: list[TrainingSet], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    out = tmp_path_factory.mktemp("whole") / "run"
    pretrain(config(2), data=sets, out=out)
    return RunFolder(out)


def test_a_resumed_run_of_sets_ends_as_the_undisturbed_one(
    sets: list[TrainingSet], whole: RunFolder, tmp_path: Path
) -> None:
    pretrain(config(1), data=sets, out=tmp_path / "run")
    pretrain(config(2), data=sets, out=tmp_path / "run", resume=True)
    resumed = RunFolder(tmp_path / "run")
    one, two = (load_checkpoint(run.last).model for run in (whole, resumed))
    assert one.keys() == two.keys()
    assert {name for name in one if name.endswith("video_ids")} == {"queue.video_ids", "motion_queue.video_ids"}
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    lines = [
        [{key: value for key, value in line.items() if key not in TIMES} for line in read_lines(run.metrics)]
        for run in (whole, resumed)
    ]
    assert lines[0] == lines[1]
    with pytest.raises(DataError, match="not the same ones"):
        pretrain(config(2), data=[sets[0], TrainingSet(root=sets[1].root)], out=tmp_path / "run", resume=True)
    with pytest.raises(DataError, match="or with other shares, windows or rates"):
        pretrain(config(2), data=[sets[0], replace(sets[1], timing={})], out=tmp_path / "run", resume=True)
    assert [each.get("stride") for each in load_checkpoint(resumed.last).data["sets"]] == [None, 1.0]


def test_sets_are_the_same_from_another_folder(sets: list[TrainingSet], monkeypatch: pytest.MonkeyPatch) -> None:
    found = {fingerprint(training_videos(sets, DataConfig()))}
    for folder in (sets[0].root, sets[0].root.parents[1]):
        monkeypatch.chdir(folder)
        near = [replace(each, root=Path(os.path.relpath(each.root))) for each in sets]
        found.add(fingerprint(training_videos(near, DataConfig())))
    assert len(found) == 1


def test_losses_and_health_are_recorded_by_set(whole: RunFolder) -> None:
    """24 items, 6 samples of the first set and 18 of the second."""
    for line in read_lines(whole.metrics, "step"):
        parts = [(line.get(f"loss/{name}", 0.0), line[f"videos/{name}"]) for name in ("first", "second:9")]
        assert sum(count for _, count in parts) == 4
        assert sum(loss * count for loss, count in parts) / 4 == pytest.approx(line["loss"], rel=1e-5)
    for line in read_lines(whole.metrics, "epoch"):
        assert (6 * line["videos/first"], 6 * line["videos/second:9"]) == pytest.approx((6, 18))
    for line in read_lines(whole.metrics, "health"):
        assert (line["num_videos"], line["num_videos/first"], line["num_videos/second:9"]) == (12, 8, 4)
        assert 1 <= line["effective_rank/second:9"] <= 4


def test_health_is_measured_on_clips_as_each_set_has_them(sets: list[TrainingSet], tmp_path: Path) -> None:
    """Folders of pictures state no frame rate, which their set gives."""
    for name in ("one", "two"):
        write_pictures(tmp_path / "pictures" / name, *range(12))
    both = [sets[0], TrainingSet(root=tmp_path / "pictures", timing={"frame_rate": 25.0})]
    config = with_settings("data", part="all", fps=12.5)
    method = FIMA(config.model, config.method)
    health = check_health(method, training_videos(both, config.data), config, torch.device("cpu"))
    assert health is not None
    assert health.num_videos == 10 + 2


def test_a_checkpoint_without_ids_begins_a_run_that_keeps_them(
    sets: list[TrainingSet], whole: RunFolder, tmp_path: Path
) -> None:
    saved = load_checkpoint(whole.last)
    for name in [name for name in saved.model if name.endswith("video_ids")]:
        del saved.model[name]
    save_checkpoint(tmp_path / "old.pt", saved)
    for source in (tmp_path / "old.pt", whole.last):
        out = tmp_path / source.stem
        pretrain(config(1), data=sets, out=out, resume_from=source, start_epoch=0)
        assert "queue.video_ids" in load_checkpoint(RunFolder(out).last).model
    assert (
        load_checkpoint(RunFolder(tmp_path / "old").last)
        .model["queue.video_ids"]
        .equal(load_checkpoint(RunFolder(tmp_path / "last").last).model["queue.video_ids"])
    )


def test_wrong_sets_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipes = [tmp_path / "one.yaml", tmp_path / "two.yml"]
    for recipe in recipes:
        recipe.write_text("")
    for words, message in (
        (["a:0"], "a:0: a weight must be greater than 0"),
        (["a", *map(str, recipes)], "only one recipe can be given"),
        (["a:0", "b", "c", "--run.seed", "1", str(recipes[0])], "a:0: a weight"),
        (["a", "--run.seed", "1", str(recipes[0]), "b:0"], "b:0: a weight"),
        (["nowhere:2", "a"], "nowhere: no such folder"),
    ):
        assert main(["pretrain", *words, "--out", str(tmp_path / "run")]) == 2
        assert message in capsys.readouterr().err


def test_persons_of_a_table_are_held_out_whole(tmp_path: Path) -> None:
    persons = [f"person {number % 5}" for number in range(20)]
    lines = [f"{number:02d}.mp4,{'ab'[number // 10]},{person},train" for number, person in enumerate(persons)]
    (tmp_path / "videos.csv").write_text("\n".join(["path,label,group,split", *lines, "t.mp4,a,other,test", ""]))
    for name in (*(f"{number:02d}.mp4" for number in range(20)), "t.mp4"):
        (tmp_path / name).touch()
    kept = training_videos([TrainingSet(root=tmp_path)], DataConfig(held_out_share=0.25))
    config = FinetuneConfig(classifier=ClassifierConfig(select="validation", held_out_share=0.25))
    labelled = find_lists(config, tmp_path)
    assert kept.held_out is not None
    assert labelled.validation is not None
    for train, held_out in ((kept, kept.held_out), (labelled.train, labelled.validation)):
        seen, unseen = ({persons[int(video.path.stem)] for video in part.videos} for part in (train, held_out))
        assert not seen & unseen
        assert (len(seen), len(unseen)) == (4, 1)
