"""What charts of a report hold, and that no text in them becomes markup."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fima.evaluate.features import Features
from fima.evaluate.report import ClassReport
from fima.visual.html import render, script
from fima.visual.report.charts import (
    Chart,
    confusion_chart,
    curve_charts,
    embedding_chart,
    run_colour,
    similarity_chart,
)
from fima.visual.report.feature_maps import feature_map
from fima.visual.report.media import MediaStore
from fima.visual.report.runs import Result, RunRecord
from fima.visual.report.sections import Table, classes, results
from tests.video_files import moving_square


def test_confusion_and_accuracy_by_class() -> None:
    report = ClassReport(name="x", classes=["a", "b", "<c>"], counts=[[3, 1, 0], [0, 2, 2], [0, 0, 0]])
    assert [report.accuracy(number) for number in range(3)] == [75, 50, None]
    assert [report.taken_for(number) for number in range(3)] == ["b", "<c>", ""]
    chart = confusion_chart(report)
    assert chart.data[0]["z"] == [[75, 25, 0], [0, 50, 50], [0, 0, 0]]
    assert chart.data[0]["x"][2] == "&lt;c&gt;"
    assert "62.5 percent" in chart.summary


def test_long_names_of_classes_leave_the_confusion_matrix_room() -> None:
    names = [f'{number:03d} putting "something" <b> behind something {number}' for number in range(100)]
    chart = confusion_chart(ClassReport(name="x", classes=names, counts=[[1] * 100] * 100))
    axis = chart.layout["xaxis"]
    assert chart.data[0]["x"][1] == '001 putting "something" &lt;b&gt; behind something 1', "whole under the pointer"
    assert axis["tickvals"] == chart.data[0]["x"][::3]
    assert axis["ticktext"][-1] == '099 putting "s… something 99'
    assert "ticktext" not in confusion_chart(ClassReport(name="x", classes=["a"], counts=[[1]])).layout["yaxis"]


def test_maps_and_histograms() -> None:
    chart = embedding_chart("PCA", np.arange(8.0).reshape(4, 2), [1, 0, 1, -1], ["<a>", "b"])
    assert {trace["name"]: trace["customdata"] for trace in chart.data} == {
        "videos": [3],
        "&lt;a&gt;": [1],
        "b": [0, 2],
    }
    shares = similarity_chart({"one": np.array([0.99, 0.99, -0.5])}).data[0]["y"]
    assert max(shares) == 1
    assert sum(shares) == 1.5
    beyond = np.nextafter(1.0, 2.0)
    assert similarity_chart({"one": np.array([beyond, beyond, -0.5])}).data[0]["y"] == [0] * 15 + [0.5] + [0] * 43 + [1]


def test_text_in_tables_and_data_in_scripts_are_escaped() -> None:
    table = Table(caption='"c" & <i>', header=["name", "<n>"], rows=[["<x>", "1,234"], ["y", "2 ± 1"], ["z", ""]])
    page = render("fima.visual.report", "skipped.html", skipped=table)
    assert 'aria-label="&#34;c&#34; &amp; &lt;i&gt;"' in page
    assert re.findall(r'<th scope="row">(.*?)</th>', page) == ["&lt;x&gt;", "y", "z"]
    assert re.findall(r'<th scope="col"(.*?)</th>', page) == [">name", ' class="number">&lt;n&gt;']
    assert page.count('<td class="number">') == 3
    curve = Chart(title="<b>", summary="'s'", data=[{"name": "</script><!--&"}], layout={})
    page = render("fima.visual.report", "curves.html", curves=[curve], epochs={})
    assert "<figcaption>&lt;b&gt;</figcaption>" in page
    (content,) = re.findall(r'<script type="application/json">(.*?)</script>', page)
    assert not set("<>&") & set(content)
    assert json.loads(content) == {"data": curve.data, "layout": {}}
    with pytest.raises(ValueError, match="JSON"):
        render("fima.visual.report", "curves.html", curves=[replace(curve, layout={"x": float("nan")})], epochs={})


def test_a_script_cannot_end_its_element() -> None:
    assert script("a('</script><!--') && b") == "a('<\\/script><\\!--') && b"


def test_videos_that_have_no_room_are_left_out() -> None:
    media = MediaStore(6_000)
    frames = list(moving_square(4))
    names = [media.add(f"video {number % 6}", frames, 10) for number in range(8)]
    assert names[0] == names[6] == "v0"
    assert None in names
    assert media.num_left_out == names.count(None)
    assert sum(map(len, media.contents.values())) + sum(map(len, media.posters.values())) <= 6_000


def test_the_bars_of_a_run_have_its_colour(tmp_path: Path) -> None:
    """Also after one that has no results, which has no bars either."""
    result = Result(name="evaluation/last.json", content={"figures": {"knn/top1": 5.0}, "chance": {}, "protocols": {}})
    bare = RunRecord(name="bare", root=tmp_path, settings={}, record={}, lines=[])
    found = results([bare, replace(bare, name="evaluated", results=[result])])
    assert found is not None
    assert found.bars is not None
    bars, chance = found.bars.data
    assert (bars["name"], bars["marker"]["color"], chance["name"]) == ("evaluated", run_colour(1), "chance")
    assert found.bars.summary == "evaluated: kNN, top-1 5.0 percent."


def test_chance_has_no_mark_where_no_run_has_a_bar(tmp_path: Path) -> None:
    """As of figures of other videos than the main ones of their run, which the table has."""
    found = [
        Result(name=f"evaluation/{name}.json", content={"figures": {figure: 5.0}, "chance": {figure: 1.0}, **of})
        for name, figure, of in (
            ("last", "knn/top1", {"lists_hash": "these"}),
            ("other", "linear/top1", {"lists_hash": "others"}),
        )
    ]
    shown = results([RunRecord(name="run", root=tmp_path, settings={}, record={}, lines=[], results=found)])
    assert shown is not None
    assert shown.bars is not None
    assert [trace["x"] for trace in shown.bars.data] == [["kNN, top-1"]] * 2
    assert len(shown.figures.rows) == 2


def test_a_figure_that_any_guess_gets_has_no_bar(tmp_path: Path) -> None:
    """As where all test videos are of one class."""
    figures = {"linear/top1": 100.0, "knn/top1": 50.0}
    content = {"figures": figures, "chance": {"linear/top1": 100.0, "knn/top1": 10.0}, "protocols": {}}
    evaluated = [Result(name="evaluation/last.json", content=content)]
    found = results([RunRecord(name="run", root=tmp_path, settings={}, record={}, lines=[], results=evaluated)])
    assert found is not None
    assert found.bars is not None
    assert found.bars.summary == "run: kNN, top-1 50.0 percent."


def test_skipped_videos_whose_names_differ_in_case_are_two(tmp_path: Path) -> None:
    skipped = [{"path": path} for path in ("/a.avi", "/A.avi", "/a.avi")]
    run = RunRecord(name="run", root=tmp_path, settings={}, record={}, lines=[], skipped=skipped)
    page = render("fima.visual.report", "overview.html", runs=[run], run_colour=run_colour, figure_names={})
    assert "<dt>skipped videos</dt><dd>2</dd>" in page


def test_an_epoch_that_was_resumed_took_the_time_before_it_too(tmp_path: Path) -> None:
    steps = [{"kind": "step", "epoch": 1, "step": number, "seconds": 40.5} for number in (1, 2, 3)]
    epochs = [{"kind": "epoch", "epoch": number, "step": 3 * number, "seconds": 50.0} for number in (1, 2)]
    run = RunRecord(name="run", root=tmp_path, settings={}, record={}, lines=[*steps, *epochs])
    assert run.training_time == "2 min 52 s of training"


def test_a_column_of_folds_says_so(tmp_path: Path) -> None:
    content = {"figures": {"knn/top1": 5.0}, "chance": {"knn/top1": 1.0}, "protocols": {}}
    folds = {**content, "unit": "fold", "splits": {"a": {}, "b": {}}}
    both = [Result(name="evaluation/last.json", content=content), Result(name="evaluation/last-2.json", content=folds)]
    found = results([RunRecord(name="run", root=tmp_path, settings={}, record={}, lines=[], results=both)])
    assert found is not None
    assert found.figures.header == ["figure (%)", "run: last.json", "run: last-2.json, 2 folds", "chance"]


def test_of_folds_the_classes_of_all_together_are_shown(tmp_path: Path) -> None:
    report = ClassReport(name="last/fold-a/knn", classes=["x"], counts=[[1]])
    everyone = [report, replace(report, name="last/fold-b/knn"), replace(report, name="last/knn", counts=[[2]])]
    run = RunRecord(name="run", root=tmp_path, settings={}, record={}, lines=[], class_reports=everyone)
    assert list(classes([run], {})) == ["last/knn"]
    alone = replace(run, class_reports=everyone[:2])
    assert list(classes([alone], {})) == ["last/fold-a/knn", "last/fold-b/knn"]


def test_runs_that_were_tested_on_other_videos_say_on_how_many(tmp_path: Path) -> None:
    report = ClassReport(name="last/knn", classes=["x", "y"], counts=[[2, 1], [0, 4]])
    more = replace(report, counts=[[8, 1], [0, 4]])
    run = RunRecord(name="one", root=tmp_path, settings={}, record={}, lines=[], class_reports=[report])
    ((_, (table,)),) = classes([run, replace(run, name="other", class_reports=[more])], {}).values()
    assert [list(row[:2]) for row in table.rows] == [["x", "3 to 9"], ["y", "4"]]


def test_only_the_runs_of_a_chart_are_marked_in_it(tmp_path: Path) -> None:
    lines = [{"kind": "epoch", "epoch": 1, "step": 4, "cell": 1.5}, {"kind": "health", "step": 4, "best": True}]
    one = RunRecord(name="one", root=tmp_path, settings={}, record={}, lines=lines)
    other = replace(one, name="other", lines=[{**lines[0], "cell": None, "top1": 50.0}, {**lines[1], "step": 9}])
    charts = curve_charts([one, other])
    assert [[shape["x0"] for shape in chart.layout["shapes"]] for chart in charts] == [[4], [9]]
    assert ["mark of other" in chart.summary for chart in charts] == [False, True]


@pytest.mark.parametrize(
    ("name", "cost", "called"), [("fima", "full", "FIMA"), ("fima", "light", "FIMA light"), ("mine", "full", "mine")]
)
def test_a_run_is_called_by_its_method(name: str, cost: str, called: str, tmp_path: Path) -> None:
    settings = {"method": {"name": name, "cost": cost}}
    assert RunRecord(name="run", root=tmp_path, settings=settings, record={}, lines=[]).method == called


@pytest.mark.parametrize("clips_differ", [True, False])
def test_clips_are_compared_within_videos_within_classes_and_between_them(clips_differ: bool, tmp_path: Path) -> None:
    classes = torch.tensor([[4.0, 0.0, 0.0], [-4.0, 0.0, 0.0]])
    of_videos = torch.tensor([[0.0, 3.0, 0.0], [0.0, -3.0, 0.0], [0.0, 3.0, 0.0], [0.0, -3.0, 0.0]])
    labels = torch.tensor([0, 0, 1, 1])
    of_clips = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]) * clips_differ
    pooled = (classes[labels] + of_videos)[:, None] + of_clips
    paths = [str(tmp_path / f"{number}.mp4") for number in range(4)]
    found = feature_map(Features(paths=paths, labels=labels, undecodable=[], pooled=pooled), ["x", "y"], {}).similarity
    assert found is not None
    # Between the clips of a video 16 + 9 - 1, of a class 16 - 9 ± 1, of others -16 ± 9 ± 1; of lengths 16 + 9 + 1.
    means = {"clips of one video": 0.92, "videos of one class": 0.27, "videos of different classes": -0.62}
    if not clips_differ:
        means = {"videos of one class": 0.28, "videos of different classes": -0.64}
    assert found.summary == f"Histograms; {'; '.join(f'{name}: mean {mean:.2f}' for name, mean in means.items())}."


def test_of_many_clips_a_video_fewer_videos_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory goes by the square of the clips."""
    seen: list[int] = []

    def counted(groups: dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]) -> Chart:
        seen.append(sum(map(len, groups.values())))
        return similarity_chart(groups)

    monkeypatch.setattr("fima.visual.report.feature_maps.similarity_chart", counted)
    pooled = torch.randn(40, 100, 4, generator=torch.Generator().manual_seed(0))
    paths = [str(tmp_path / f"{number}.mp4") for number in range(40)]
    feature_map(Features(paths=paths, labels=torch.arange(40) % 2, undecodable=[], pooled=pooled), ["x", "y"], {})
    assert seen == [2_000 * 1_999 // 2]
