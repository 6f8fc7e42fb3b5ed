"""Which videos settings choose; lists of those to exclude, in the forms in which people write them."""

from pathlib import Path

import pytest

from fima.config import DataConfig
from fima.data.datasets import list_videos
from fima.data.layouts.video_list import PackedVideos
from fima.data.quarantine import exclude, write_quarantine
from fima.data.training_sets import TrainingSet, chosen_videos, training_videos
from fima.errors import DataError
from tests.test_datasets import names, touch


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    touch(tmp_path / "lab", *(f"{name}/{i}.mp4" for name in ("jump", "run") for i in (1, 2)), "run/only.mp4")
    return tmp_path / "lab"


@pytest.mark.parametrize(
    "line",
    [
        "run/only.mp4",
        "./run/only.mp4",
        r"run\only.mp4",
        "lab/run/only.mp4",
        r"C:\Users\me\lab\run\only.mp4",
        "/elsewhere/lab/run/only.mp4",
        "{lab}/run/only.mp4",
        "only.mp4",
        "only",
        "run/only",
        "run/only.avi",
        '"run/only.mp4"',
    ],
)
@pytest.mark.parametrize(("start", "end"), [("", "\n"), ("\ufeff", "\r\n")])
def test_ways_to_write_an_entry(line: str, start: str, end: str, lab: Path) -> None:
    file = lab.parent / "list.txt"
    file.write_text(f"{start}{line.format(lab=lab)}{end}", encoding="utf-8", newline="")
    kept = exclude(list_videos(lab, "all"), file)
    assert names(kept) == ["jump/1.mp4", "jump/2.mp4", "run/1.mp4", "run/2.mp4"]
    assert kept.layout.endswith("; 1 video excluded")
    assert kept.warnings() == []


def test_entries_that_match_nothing_or_too_much_are_counted(lab: Path) -> None:
    file = lab.parent / "list.txt"
    file.write_text("run/2.mp4\n1.mp4\nrun/9.mp4\ntest/run/1.mp4\nrun/*.mp4\n")
    kept = exclude(list_videos(lab, "all"), file)
    assert names(kept) == ["jump/1.mp4", "jump/2.mp4", "run/1.mp4", "run/only.mp4"]
    assert kept.warnings() == [
        f"{file}: 3 of 5 entries name no video, such as 'run/*.mp4'",
        f"{file}: 1 of 5 entries name several videos, so none is excluded, such as '1.mp4'",
    ]


def test_an_entry_of_another_split_is_no_unknown_one(tmp_path: Path) -> None:
    touch(tmp_path / "v", "train/run/a.mp4", "train/jump/b.mp4", "test/run/c.mp4", "test/jump/d.mp4")
    file = tmp_path / "list.txt"
    file.write_text("test/run/c.mp4\ntrain/run/a.mp4\n")
    chosen = chosen_videos(tmp_path / "v", DataConfig(exclude=str(file)), "train")
    assert names(chosen) == ["train/jump/b.mp4"]
    assert chosen.warnings() == []
    file.write_text("test/run/x.mp4\ntrain/run/a.mp4\n")
    (said,) = chosen_videos(tmp_path / "v", DataConfig(exclude=str(file)), "train").warnings()
    assert "1 of 2 entries name no video, such as 'test/run/x.mp4'" in said


def test_an_entry_of_another_set_is_no_unknown_one(lab: Path) -> None:
    touch(lab.parent / "street", "walk/1.mp4", "walk/2.mp4", "ride/3.mp4")
    file = lab.parent / "list.txt"
    file.write_text("run/only.mp4\nstreet/walk/2.mp4\nwalk/9.mp4\n")
    sets = [TrainingSet(root=lab), TrainingSet(root=lab.parent / "street")]
    chosen = training_videos(sets, DataConfig(exclude=str(file), part="all"))
    assert len(chosen.videos) == 4 + 2
    assert chosen.warnings() == [f"{file}: 1 of 3 entries name no video, such as 'walk/9.mp4'"]


def test_the_path_of_a_video_elsewhere_is_no_short_name_of_one_here(tmp_path: Path) -> None:
    """What `fima doctor` found in one set or part must not cost a video of another one that is called the same."""
    touch(
        tmp_path,
        "one/1.mp4",
        "one/2.mp4",
        "two/x/1.mp4",
        "two/x/2.mp4",
        "three/1.mp4",
        "three/old/2.mp4",
        "three/2.mp4",
    )
    file = tmp_path / "list.txt"
    file.write_text("1.mp4\n")
    sets = [TrainingSet(root=tmp_path / name) for name in ("one", "two")]
    chosen = training_videos(sets, DataConfig(exclude=str(file)))
    assert sorted(str(video.path.relative_to(tmp_path)) for video in chosen.videos) == [
        "one/2.mp4",
        "two/x/1.mp4",
        "two/x/2.mp4",
    ]
    assert chosen.warnings() == []
    sets.append(TrainingSet(root=tmp_path / "three"))
    both = training_videos(sets, DataConfig(exclude=str(file)))
    assert len(both.videos) == 5
    assert both.warnings() == [
        f"{file}: 1 of 1 entries name a video in several sets, and exclude it in each, such as '1.mp4'"
    ]
    (tmp_path / "three" / "videos.csv").write_text("path,split\n1.mp4,train\nold/2.mp4,train\n2.mp4,test\n")
    file.write_text("2.mp4\n")
    assert names(chosen_videos(tmp_path / "three", DataConfig(exclude=str(file)), "train")) == ["1.mp4", "old/2.mp4"]


def test_the_settings_choose_the_videos(videos: Path, tmp_path: Path) -> None:
    assert len(chosen_videos(videos, DataConfig(), "train").videos) == 8
    assert len(chosen_videos(videos, DataConfig(), "all").videos) == 10
    listed = tmp_path / "quarantine.txt"
    write_quarantine(listed, ["a/00.avi", "b/01.avi"])
    kept = chosen_videos(videos, DataConfig(exclude=str(listed)), "all")
    assert len(kept.videos) == 8
    assert isinstance(kept.videos, PackedVideos)
    assert not {"a/00.avi", "b/01.avi"} & {str(video.path.relative_to(videos)) for video in kept.videos}
    assert "2 videos excluded" in kept.layout


def test_other_layouts_are_refused(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="UCF101"):
        chosen_videos(videos, DataConfig(dataset="ucf101"), "train")
    with pytest.raises(DataError, match=r"missing\.txt"):
        chosen_videos(videos, DataConfig(exclude=str(tmp_path / "missing.txt")), "train")
