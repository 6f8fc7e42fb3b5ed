from collections import Counter
from pathlib import Path

import pytest

from fima.data.datasets import Video, VideoList
from fima.data.subsets import hold_out, low_shot
from fima.errors import DataError


def make_list(*sizes: int, labelled: bool = True) -> VideoList:
    videos = [
        Video(Path(f"{label}/{number}.avi"), label if labelled else None)
        for label, size in enumerate(sizes)
        for number in range(size)
    ]
    classes = [str(label) for label in range(len(sizes))] if labelled else []
    return VideoList(videos=videos, classes=classes, root=Path("root"), split="train", layout="made")


def counts(videos: VideoList) -> list[int]:
    found = Counter(video.label for video in videos.videos)
    return [found[label] for label in range(len(videos.classes))]


@pytest.mark.parametrize("count", [1, 3, 7, 10, 17, 36])
def test_low_shot_is_as_even_as_the_classes_allow(count: int) -> None:
    videos = make_list(20, 2, 10, 4)
    drawn = low_shot(videos, count, seed=0)
    assert len(drawn.videos) == count
    for size, taken in zip((20, 2, 10, 4), counts(drawn), strict=True):
        assert taken in (size, max(counts(drawn)), max(counts(drawn)) - 1)
    assert drawn.videos == [video for video in videos.videos if video in drawn.videos]
    assert drawn.classes == videos.classes


def test_low_shot_follows_from_the_seed_and_nests() -> None:
    videos = make_list(20, 20, 20)
    assert low_shot(videos, 7, seed=3) == low_shot(videos, 7, seed=3)
    assert len({tuple(video.path for video in low_shot(videos, 7, seed).videos) for seed in range(5)}) == 5
    assert set(low_shot(videos, 7, 0).videos) < set(low_shot(videos, 8, 0).videos)
    assert low_shot(videos, 60, 0).videos == videos.videos
    assert low_shot(videos, 7, 0).layout == "made; 7 of 60 videos, drawn evenly from the classes"


def test_chance_decides_which_classes_a_round_serves() -> None:
    videos = make_list(*[3] * 20)
    served = {frozenset(video.label for video in low_shot(videos, 4, seed).videos) for seed in range(5)}
    assert len(served) > 1


def test_low_shot_without_labels() -> None:
    assert len(low_shot(make_list(5, 5, labelled=False), 4, seed=0).videos) == 4


@pytest.mark.parametrize("count", [0, -1, 6])
def test_low_shot_of_more_or_less_than_there_is(count: int) -> None:
    with pytest.raises(DataError, match=f"root: {count} videos asked for; the train list has 5"):
        low_shot(make_list(3, 2), count, seed=0)


@pytest.mark.parametrize(("share", "held"), [(0.1, [2, 1, 0, 1]), (0.5, [10, 1, 0, 2]), (0.99, [19, 1, 0, 4])])
def test_hold_out_by_class(share: float, held: list[int]) -> None:
    videos = make_list(20, 2, 1, 5)
    kept, tested = hold_out(videos, share, seed=0)
    assert counts(tested) == held
    assert sorted([*kept.videos, *tested.videos], key=videos.videos.index) == videos.videos
    assert not set(kept.videos) & set(tested.videos)
    assert hold_out(videos, share, seed=0) == (kept, tested)


def test_hold_out_follows_from_the_seed() -> None:
    videos = make_list(50)
    assert len({tuple(hold_out(videos, 0.2, seed)[1].videos) for seed in range(4)}) == 4


def grouped(videos: VideoList, count: int) -> dict[Path, str]:
    """Every so many-th video is of the same group."""
    return {video.path: f"person {place % count}" for place, video in enumerate(videos.videos)}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("share", "held"), [(0.05, 1), (0.2, 2), (0.5, 5), (0.99, 9)])
def test_whole_groups_are_held_out(share: float, held: int, seed: int) -> None:
    videos = make_list(30, 30)
    groups = grouped(videos, 10)
    kept, tested = hold_out(videos, share, seed, groups)
    names = [{groups[video.path] for video in part.videos} for part in (kept, tested)]
    assert not names[0] & names[1]
    assert len(names[1]) == held
    assert len(kept.videos) + len(tested.videos) == 60
    assert tested.layout == f"made; {6 * held} in whole groups held out of 60"


@pytest.mark.parametrize("sizes", [(80, 10, 10), (60, 20, 10, 10)])
def test_a_large_group_is_not_held_out_for_a_small_share(sizes: tuple[int, ...]) -> None:
    videos = make_list(100, labelled=False)
    cameras = [str(camera) for camera, size in enumerate(sizes) for _ in range(size)]
    groups = {video.path: camera for video, camera in zip(videos.videos, cameras, strict=True)}
    for seed in range(8):
        assert len(hold_out(videos, 0.1, seed, groups)[1].videos) in (10, 20)
        kept, smallest = hold_out(videos, 0.02, seed, groups)
        assert len(smallest.videos) == 10
        assert kept.notes == ["root: 10 of 100 videos are held out: no group is smaller"]


def test_groups_that_have_all_of_a_class_are_not_held_out() -> None:
    videos = make_list(6, 6)
    by_class = {video.path: str(video.label) for video in videos.videos}
    assert hold_out(videos, 0.5, 0, by_class) == hold_out(videos, 0.5, 0)
    alone = {**grouped(videos, 3), **{video.path: "alone" for video in videos.videos if video.label == 1}}
    for seed in range(4):
        assert counts(hold_out(videos, 0.3, seed, alone)[1]) == [4, 0]


def test_a_video_without_a_group_is_one_of_its_own() -> None:
    videos = make_list(10)
    _, tested = hold_out(videos, 0.2, 0, {videos.videos[0].path: "", videos.videos[1].path: "p"})
    assert len(tested.videos) == 2


def test_hold_out_that_cannot_be() -> None:
    with pytest.raises(DataError, match="no class has two videos"):
        hold_out(make_list(1, 1), 0.5, seed=0)
    with pytest.raises(DataError, match="a share of 1"):
        hold_out(make_list(5), 1, seed=0)
