"""The galleries of `fima report`: which videos they show, and files of a run that are damaged."""

import json
from pathlib import Path

import pytest
import torch

from fima.checkpoints.run_folder import RunFolder
from fima.cli import main
from fima.config import DataConfig
from fima.data.datasets import VideoList, list_videos
from fima.data.training_sets import TrainingSet, training_videos
from fima.errors import DataError
from fima.evaluate.features import Features
from fima.train.resume import data_record
from fima.visual.report.gallery import _lists, _queries
from fima.visual.report.runs import RunRecord, read_run
from tests.layout_files import write_lines
from tests.small_runs import with_settings
from tests.test_datasets import names, touch

Capture = pytest.CaptureFixture[str]


def recorded(root: Path, videos: VideoList) -> RunRecord:
    """A run without checkpoints on some videos."""
    root.mkdir()
    RunFolder(root).write_config(with_settings("run"), data_record(videos))
    return read_run(root, "run")


def test_galleries_of_a_table_are_of_its_rows(tmp_path: Path) -> None:
    touch(tmp_path, *(f"videos/{name}/{number}.mp4" for name in "ab" for number in range(3)))
    rows = ["a/0.mp4,jump,train", "b/1.mp4,run,train", "a/1.mp4,jump,test", "b/0.mp4,run,test"]
    table = write_lines(tmp_path / "videos" / "mine.csv", "path,label,split", *rows)
    found = _lists(recorded(tmp_path / "run", list_videos(table)), None)
    assert names(found.train) == ["a/0.mp4", "b/1.mp4"]
    assert names(found.test) == ["a/1.mp4", "b/0.mp4"]
    assert (found.labelled, found.test.classes) == (True, ["jump", "run"])


def test_galleries_of_a_table_elsewhere_and_without_some_labels(tmp_path: Path) -> None:
    touch(tmp_path, *(f"videos/{number}.mp4" for number in range(4)))
    (tmp_path / "lists").mkdir()
    rows = ["0.mp4,x,train", "1.mp4,y,train", "2.mp4,x,test", "3.mp4,,test"]
    lines = (f"{tmp_path / 'videos'}/{row}" for row in rows)
    table = write_lines(tmp_path / "lists" / "videos.csv", "path,label,split", *lines)
    found = _lists(recorded(tmp_path / "run", list_videos(table)), None)
    assert [video.path.name for video in found.test.videos] == ["2.mp4", "3.mp4"]
    assert not found.labelled


def test_several_sets_are_not_taken_for_what_lies_around_them(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}/{number}.mp4" for name in ("one", "two", "private") for number in range(3)))
    videos = training_videos([TrainingSet(root=tmp_path / name) for name in ("one", "two")], DataConfig())
    with pytest.raises(DataError, match="several sets; give one to --data"):
        _lists(recorded(tmp_path / "run", videos), None)


def test_galleries_are_of_few_videos_unless_an_evaluation_has_left_the_features_of_these(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    touch(videos, *(f"{number}.mp4" for number in range(310)))
    run = recorded(tmp_path / "run", list_videos(videos))
    (run.root / "evaluation" / "cache").mkdir(parents=True)
    for root, expected in ((tmp_path / "labelled", 300), (videos, 310)):
        content = {"figures": {}, "chance": {}, "protocols": {}, "data": {"train": {"root": str(root)}}}
        (run.root / "evaluation" / "last.json").write_text(json.dumps(content))
        assert len(_lists(read_run(run.root, "run"), None).train.videos) == expected


@pytest.mark.parametrize("several", [False, True])
def test_data_of_an_evaluation_are_recognised_in_another_working_directory(
    several: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, *(f"videos/{number}.mp4" for number in range(310)), "elsewhere/.x")
    run = recorded(tmp_path / "run", list_videos(tmp_path / "videos"))
    (run.root / "evaluation" / "cache").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    data = {"train": list_videos(Path("videos")).describe()}
    content = {"figures": {}, "chance": {}, "protocols": {}, "data": {"split 1": data} if several else data}
    (run.root / "evaluation" / "last.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(_lists(read_run(run.root, "run"), None).train.videos) == 310


def test_a_run_with_a_damaged_checkpoint_is_reported(tmp_path: Path, capsys: Capture) -> None:
    touch(tmp_path, "videos/a.mp4")
    run = recorded(tmp_path / "run", list_videos(tmp_path / "videos"))
    touch(run.root, "checkpoints/last.pt")
    assert main(["report", str(run.root), "-o", str(tmp_path / "page.html"), "--device", "cpu"]) == 0
    assert "last.pt" in capsys.readouterr().err


def test_a_run_that_cannot_be_written_is_reported(tmp_path: Path, capsys: Capture) -> None:
    touch(tmp_path, "videos/a.mp4")
    run = recorded(tmp_path / "run", list_videos(tmp_path / "videos"))
    (run.root / "evaluation").touch()  # no folder can be made here, as on a disk that is read-only
    assert main(["report", str(run.root), "-o", str(tmp_path / "page.html"), "--device", "cpu"]) == 0
    told = "evaluation/cache: cannot be written (Not a directory); the features for the galleries of run are not kept"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(("queries", "count"), [(["q.mp4"], 3), (["0.mp4"], 2)])
def test_a_query_has_all_other_videos_as_neighbours(queries: list[str], count: int) -> None:
    def features(paths: list[str]) -> Features:
        return Features(
            pooled=torch.randn(len(paths), 1, 4), labels=torch.zeros(len(paths)), paths=paths, undecodable=[]
        )

    found = _queries(features(["0.mp4", "1.mp4", "2.mp4"]), features(queries), ["one"])
    assert [len(query.neighbours) for query in found] == [count]
    assert all(Path(queries[0]) != neighbour.path for neighbour in found[0].neighbours)


def test_a_single_query_has_the_neighbours_that_are_like_it() -> None:
    train = Features(paths=["0", "1", "2"], labels=torch.arange(3), undecodable=[], pooled=torch.eye(3)[:, None])
    test = Features(paths=["3"], labels=torch.tensor([2]), undecodable=[], pooled=torch.eye(3)[2:, None])
    (query,) = _queries(train, test, ["x", "y", "z"])
    assert [found.right for found in query.neighbours] == [True, False, False]
    assert [found.similarity for found in query.neighbours] == pytest.approx([1, -0.5, -0.5])


def test_damaged_files_of_a_run_are_passed_over(tmp_path: Path) -> None:
    """By a crash of the machine, a hand, or an older version."""
    folder = RunFolder(tmp_path / "run")
    write_lines(folder.root / "linear" / "confusion.csv", "class,a,b", "a,1,0", "b,1,1")
    folder.write_config(with_settings("run"), {"num_videos": 3})
    (folder.root / "knn").mkdir()
    (folder.root / "knn" / "confusion.csv").touch()
    (folder.root / "confusion.csv").write_bytes(b"class,\xff\n\xff,1\n")
    whole = '{"figures": {"knn/top1": 50.0, "linear/top1": NaN, "x": null}, "chance": {}, "protocols": {}}'
    (folder.root / "result.json").write_text(whole)
    (folder.root / "other.json").write_text('{"figures": null, "chance": {}, "protocols": {}}')
    line = '{"kind": "epoch", "epoch": 1, "step": 4, "loss": 2.5}'
    write_lines(folder.metrics, line, line.replace('"step": 4, ', ""), '{"kind": "collapse"}')
    run = read_run(folder.root, "run")
    assert [report.name for report in run.class_reports] == ["linear"]
    assert run.main_figures == {"knn/top1": 50.0}
    # An evaluation on other videos is no row of the same table; tests of a training do not say which theirs are.
    for name, figures, lists in (("last", "linear/top1", "here"), ("last-2", "retrieval/R@1", "elsewhere")):
        content = {"figures": {figures: 10.0}, "chance": {}, "protocols": {}, "lists_hash": lists}
        content["encoder"] = {"epoch": 1}
        write_lines(folder.root / "evaluation" / f"{name}.json", json.dumps(content))
    assert read_run(folder.root, "run").main_figures == {"knn/top1": 50.0, "linear/top1": 10.0}
    out = tmp_path / "page.html"
    assert main(["report", str(folder.root), "-o", str(out), "--no-gallery"]) == 0
    page = out.read_text(encoding="utf-8")
    assert "1 of 2 epochs, 4 steps" in page
    assert "after epoch" not in page
    collapse = '{"kind": "collapse", "epoch": 2, "step": 4, "reason": "flat & dead"}'
    write_lines(folder.metrics, line, line.replace('"epoch": 1', '"epoch": 2'), collapse)
    assert read_run(folder.root, "run").main_results["linear/top1"].epoch == 1
    assert main(["report", str(folder.root), "-o", str(out), "--no-gallery"]) == 0
    assert "<strong>10.0 %</strong> after epoch 1</li>" in out.read_text(encoding="utf-8")
    assert "<dt>collapse</dt><dd>flat &amp; dead</dd>" in out.read_text(encoding="utf-8")
