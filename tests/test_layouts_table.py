import sys
from pathlib import Path

import pytest

from fima.data.datasets import list_videos, recognise
from fima.data.layouts.table import read_column
from fima.errors import DataError
from tests.layout_files import labelled, write_lines, write_videos
from tests.test_datasets import names, touch


def table_of(root: Path, *lines: str) -> Path:
    """Three videos with a table beside them."""
    write_videos(root, "a.avi", "b.avi", "c.avi")
    return write_lines(root / "t.csv", *lines)


def test_csv_as_root(tmp_path: Path) -> None:
    write_videos(tmp_path, "clips/a, b.avi", "clips/c.avi", "clips/d.avi", "clips/e.avi", "clips/unnamed.avi")
    table = write_lines(
        tmp_path / "list.csv",
        "\ufeffpath,label,split",
        '"clips/a, b.avi",run,train',
        "clips/e.avi,jump,validation",
        "clips/d.avi,jump,test",
        "clips/c.avi,jump,Train",
        "",
        "clips/gone.avi,run,train",
    )
    assert recognise(table) == "table"
    train, test = list_videos(table, dataset="table"), list_videos(table, "test")
    assert train.root == tmp_path
    assert train.classes == ["jump", "run"]
    assert labelled(train) == {"clips/a, b.avi": "run", "clips/c.avi": "jump"}
    assert labelled(test) == {"clips/d.avi": "jump"}
    assert train.missing == [str(tmp_path / "clips/gone.avi")]
    assert train.warnings() == [
        f"table list.csv, train: 2 of 3 listed videos are there; 1 missing, such as {tmp_path / 'clips/gone.avi'}",
        "only in the training split: run (1 of 2 classes)",
    ]
    assert len(list_videos(table, "all").videos) == 4


def test_validation_rows_test_where_there_are_no_others(tmp_path: Path) -> None:
    write_videos(tmp_path, "a.avi", "b.avi")
    table = write_lines(tmp_path / "videos.csv", "split,path,label,note", "val,a.avi,x,-", "train,b.avi,x,-")
    assert recognise(tmp_path) == "table"
    test = list_videos(tmp_path, "test")
    assert labelled(test) == {"a.avi": "x"}
    assert test.layout == "table videos.csv, rows val"
    assert list_videos(table, "test").videos == test.videos


def test_without_split_column(tmp_path: Path) -> None:
    table = table_of(tmp_path, "path,label", "a.avi,10", "b.avi,9", "c.avi,")
    train = list_videos(table)
    assert train.classes == ["9", "10"]
    assert labelled(train) == {"a.avi": "10", "b.avi": "9", "c.avi": None}
    with pytest.raises(DataError, match=r"t\.csv: has no column split, so no test split"):
        list_videos(table, "test")
    write_lines(table, "path,label,split", "a.avi,10,train")
    with pytest.raises(DataError, match=r"t\.csv: has only rows of train, so no test split"):
        list_videos(table, "test")


def test_absolute_paths_and_a_folder_apart_from_the_table(tmp_path: Path) -> None:
    write_videos(tmp_path, "far/a.avi", "near/b.avi")
    table = write_lines(tmp_path / "tables/t.csv", "path,label", f"{tmp_path}/far/a.avi,x", "b.avi,y")
    listed = list_videos(tmp_path / "far", annotations=write_lines(tmp_path / "u.csv", f"path\n{tmp_path}/far/a.avi"))
    assert [video.path for video in listed.videos] == [tmp_path / "far/a.avi"]
    assert listed.dataset == "table"
    with pytest.raises(DataError, match=r"t\.csv, line 2: .*/far/a\.avi lies outside .* give the table itself"):
        list_videos(tmp_path / "near", annotations=table)
    everywhere = write_lines(
        tmp_path / "tables/e.csv", "path,label", f"{tmp_path}/far/a.avi,x", f"{tmp_path}/near/b.avi,y"
    )
    told = list_videos(Path("/"), annotations=everywhere)
    assert [video.path for video in told.videos] == [tmp_path / "far/a.avi", tmp_path / "near/b.avi"]
    assert list_videos(everywhere).videos == told.videos
    assert set(read_column(everywhere, None, "label").values()) == {"x", "y"}
    beside = write_lines(
        tmp_path / "near/videos.csv", "path", f"{tmp_path}/far/a.avi", f"{tmp_path}/near/../near/b.avi"
    )
    assert [video.path for video in list_videos(beside).videos] == [tmp_path / "far/a.avi", tmp_path / "near/b.avi"]
    with pytest.raises(DataError, match="lies outside"):  # of somebody who gave the folder, not the list
        list_videos(tmp_path / "near")


@pytest.mark.parametrize("name", ["Class", "category", "action"])
def test_a_column_of_labels_by_another_name(name: str, tmp_path: Path) -> None:
    table = table_of(tmp_path, f"path,{name},fold", "a.avi,run,1", "b.avi,jump,2")
    listed = list_videos(table)
    assert labelled(listed) == {"a.avi": "run", "b.avi": "jump"}
    assert f"{table}: the column {name.casefold()} is read as the label" in listed.warnings()


def test_a_column_of_names_of_splits_is_no_column_of_labels(tmp_path: Path) -> None:
    table = table_of(tmp_path, ",path,class", "0,a.avi,train", "1,b.avi,test")
    assert labelled(list_videos(table, "train")) == {"a.avi": None}
    (said,) = [text for text in list_videos(table, "train").warnings() if "no column label" in text]
    assert said.endswith("it has class")


@pytest.mark.parametrize("names", ["kind,fold", "class,action"])
def test_no_column_of_labels_is_said(names: str, tmp_path: Path) -> None:
    write_videos(tmp_path, "a.avi")
    table = write_lines(tmp_path / "t.csv", f"path,{names}", "a.avi,run,1")
    listed = list_videos(table)
    assert labelled(listed) == {"a.avi": None}
    said = f"{table}: has no column label, so its videos have no class; it has {names.replace(',', ', ')}"
    assert listed.warnings() == [said]


@pytest.mark.parametrize("lines", [["sep=;"], [""], ["SEP=;", " "]])
def test_lines_before_the_header(lines: list[str], tmp_path: Path) -> None:
    write_videos(tmp_path, "a, b.avi", "c.avi")
    write_lines(tmp_path / "videos.csv", *lines, "path;label", "a, b.avi;x", "c.avi;y;z")
    listed = list_videos(tmp_path)
    assert labelled(listed) == {"a, b.avi": "x"}
    bad = f"{tmp_path / 'videos.csv'}, line {len(lines) + 3}: 3 fields, expected 2"
    assert listed.warnings() == [f"1 unreadable row, such as {bad}"]


@pytest.mark.parametrize("way", ["{root}/../outside.avi", "{root}/near/../../outside.avi"])
def test_no_way_around_leads_out(way: str, tmp_path: Path) -> None:
    write_videos(tmp_path, "outside.avi", "root/near/b.avi")
    table = write_lines(tmp_path / "root" / "videos.csv", "path", way.format(root=tmp_path / "root"))
    with pytest.raises(DataError, match="lies outside"):
        list_videos(table.parent)


def test_odd_rows_are_named(tmp_path: Path) -> None:
    table = table_of(tmp_path, "path,label", "a.avi,x", "a.avi,x", "b.avi", ",y", "b.avi,y,train")
    listed = list_videos(table)
    assert labelled(listed) == {"a.avi": "x"}
    assert listed.warnings() == [
        f"3 unreadable rows, such as {table}, line 4: 1 fields, expected 2",
        f"1 repeated row, such as {table}, line 3: a.avi",
    ]


def test_names_that_no_file_can_have_are_missing(tmp_path: Path) -> None:
    long = [f"{300 * 'x'}.avi", f"{300 * 'x'}/{300 * 'y'}.avi", f"{'/'.join(60 * [100 * 'x'])}.avi", "\0.avi"]
    rows = [f"{name},x,train" for name in ("a.avi", *long)]
    listed = list_videos(table_of(tmp_path, "path,label,split", *rows, "b.avi,x,test"))
    assert labelled(listed) == {"a.avi": "x"}
    assert listed.missing == [str(tmp_path / name) for name in long]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["file,class", "a.avi,x"], r"t\.csv: has no column path; .* found file, class; rename file to path"),
        ([], r"t\.csv: has no column path; .* found none"),
        (["path,label"], r"t\.csv: has no row that can be read"),
        (["path,label", "a.avi,x,y"], r"has no row that can be read; .*line 2: 3 fields, expected 2"),
        (["path,label,split", "a.avi,x,trian"], r"t\.csv, line 2: unknown split 'trian'"),
        (["path,label", "../a.avi,x"], r"t\.csv, line 2: \.\./a\.avi points outside"),
        (["path,label", "a.avi,x", "./a.avi,y"], r"line 3: \./a\.avi has another label or split than in .*line 2"),
        (["path,label", "gone.avi,x"], "none of the videos of the train split is there .1 listed, such as .*gone"),
        (["path,label", '"a.avi,x'], "cannot be read"),
    ],
)
def test_bad_tables(lines: list[str], message: str, tmp_path: Path) -> None:
    write_videos(tmp_path, "a.avi")
    with pytest.raises(DataError, match=message):
        list_videos(write_lines(tmp_path / "t.csv", *lines))


def test_parquet_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "videos.parquet").write_bytes(b"PAR1")
    with pytest.raises(
        DataError, match=r"videos\.parquet: reading Parquet needs pyarrow; pip install 'fima-video\[parquet\]'"
    ):
        list_videos(tmp_path)


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    write_videos(tmp_path, "a.avi", "b.avi", "c.avi")
    columns = {"path": ["a.avi", "b.avi", "c.avi", None], "label": [3.0, 1.0, None, 1.0], "split": ["train"] * 4}
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    listed = list_videos(tmp_path / "t.parquet")
    assert labelled(listed) == {"a.avi": "3", "b.avi": "1", "c.avi": None}
    assert listed.notes == [f"1 unreadable row, such as {tmp_path / 't.parquet'}, row 4: no path"]
    (tmp_path / "t.parquet").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"t\.parquet: cannot be read"):
        list_videos(tmp_path / "t.parquet")


def test_a_header_of_several_lines_is_refused_in_one(tmp_path: Path) -> None:
    table = tmp_path / "videos.csv"
    table.write_text('"path,label\nclips/a.mp4,run\n"')
    with pytest.raises(DataError, match="has no column path") as error:
        list_videos(table, "train")
    assert "\n" not in str(error.value)
    assert r"path,label\nclips/a.mp4" in str(error.value)


@pytest.mark.parametrize(
    "header", ["Path,LABEL,Split", "\ufeffPATH; Label; SPLIT", "path\tlabel\tsubset", '"path", "label", "split"']
)
def test_columns_in_any_case_and_with_any_delimiter(header: str, tmp_path: Path) -> None:
    write_videos(tmp_path, "a.avi", "b.avi", "c.avi")
    rows = ["a.avi,run,Training", "b.avi,run,EVAL", "c.avi,run,dev"]
    delimiter = next(mark for mark in ",;\t" if mark in header)
    table = write_lines(tmp_path / "t.csv", header, *(row.replace(",", delimiter) for row in rows))
    assert labelled(list_videos(table, "train")) == {"a.avi": "run"}
    assert labelled(list_videos(table, "test")) == {"b.avi": "run"}
    named = [note for note in list_videos(table).notes if "subset is read as the split" in note]
    assert len(named) == ("subset" in header)


def test_a_column_that_may_be_a_split_is_named(tmp_path: Path) -> None:
    table = table_of(tmp_path, "path,label,is_test", "a.avi,run,0", "b.avi,run,1")
    assert list_videos(table).warnings() == [
        f"{table}: the column is_test is not read; a column split with train and test is"
    ]
    with pytest.raises(DataError, match="more than one column 'split'"):
        list_videos(write_lines(tmp_path / "t.csv", "path,split,Split", "a.avi,train,test"))


@pytest.mark.parametrize(
    "missing", ["", "-1", "NaN", "None", "unlabelled", "Unlabeled", "null", "N/A", "<NA>", "-1.0", "-100", "#N/A"]
)
def test_missing_labels_are_no_class(missing: str, tmp_path: Path) -> None:
    table = table_of(tmp_path, "path,label", "a.avi,1", f"b.avi,{missing}", "c.avi,0")
    listed = list_videos(table)
    assert listed.classes == ["0", "1"]
    assert labelled(listed) == {"a.avi": "1", "b.avi": None, "c.avi": "0"}
    said = [f"1 unlabelled row, such as {table}, line 3: {missing!r} is no label"] if missing else []
    assert listed.notes == said


def test_numbers_sort_as_numbers(tmp_path: Path) -> None:
    table = table_of(tmp_path, "path,label", "a.avi,10.0", "b.avi,2.0", "c.avi,-3.5")
    assert list_videos(table).classes == ["-3.5", "2", "10"]
    write_lines(table, "path,label", "a.avi,10", "b.avi,2", "c.avi,run")
    assert list_videos(table).classes == ["10", "2", "run"]


def test_a_video_with_another_extension_or_accent_is_the_listed_one_unless_it_is_listed_itself(tmp_path: Path) -> None:
    lines = ["path,label", "a.avi,x", "b.avi,y", "b.mp4,z", "c/d.avi,x", "caf\u00e9.avi,y"]
    write_lines(tmp_path / "t.csv", *lines)
    touch(tmp_path, "a.mp4", "a.txt", "b.mp4", "d.mp4", "cafe\u0301.avi")
    listed = list_videos(tmp_path / "t.csv")
    found = {video.path.name: listed.classes[video.label or 0] for video in listed.videos}
    assert found == {"a.mp4": "x", "b.mp4": "z", "cafe\u0301.avi": "y"}
    assert listed.missing == [str(tmp_path / "b.avi"), str(tmp_path / "c" / "d.avi")]


@pytest.mark.parametrize(("first", "second"), [("2", "2.0"), ("caf\u00e9", "cafe\u0301")])
def test_two_spellings_of_a_label_are_one_class(first: str, second: str, tmp_path: Path) -> None:
    table = table_of(tmp_path, "path,label", f"a.avi,{first}", f"b.avi,{second}")
    assert list_videos(table).classes == [first]


def test_a_file_in_training_and_test_by_two_names_is_said(tmp_path: Path) -> None:
    table = table_of(tmp_path, "path,label,split", "a.avi,x,train", "b.avi,y,train", "c.avi,y,test", "d.avi,x,test")
    (tmp_path / "d.avi").symlink_to(tmp_path / "a.avi")
    for split in ("train", "test"):
        (said,) = list_videos(table, split).warnings()
        assert said.startswith("1 video in training and in the test part by links, such as ")


def test_a_repeated_row_with_another_value_of_a_column_is_refused(tmp_path: Path) -> None:
    table = table_of(tmp_path, "path,label,group", "a.avi,x,p", "b.avi,y,q", "a.avi,x,p")
    assert {path.name: group for path, group in read_column(table, None, "group").items()} == {
        "a.avi": "p",
        "b.avi": "q",
    }
    write_lines(table, "path,label,group", "a.avi,x,p", "b.avi,y,q", "a.avi,x,q")
    with pytest.raises(DataError, match=r"t\.csv, line 4: a\.avi has another group than in .*t\.csv, line 2"):
        read_column(table, None, "group")


def test_a_video_by_two_names_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_videos(tmp_path, "run/a.avi")
    monkeypatch.chdir(tmp_path)
    for other in (str(tmp_path / "run/a.avi"), r"run\a.avi", "./run//a.avi"):
        write_lines(tmp_path / "t.csv", "path,label,split", "run/a.avi,x,train", f"{other},x,test")
        with pytest.raises(DataError, match=r"has another label or split than in t\.csv, line 2"):
            list_videos(Path("t.csv"), "train")


def test_a_column_with_some_names_of_splits_is_named(tmp_path: Path) -> None:
    table = table_of(tmp_path, "path,label,subset", "a.avi,run,train", "b.avi,run,test", "c.avi,run,")
    assert list_videos(table).warnings() == [
        f"{table}: the column subset is not read; a column split with train and test is"
    ]


def test_a_stray_videos_csv_is_no_table(tmp_path: Path) -> None:
    write_videos(tmp_path, "clips/a.avi", "clips/b.avi")
    own = write_lines(tmp_path / "videos.csv", "videoid,title,duration", "1,first clip,3")
    listed = list_videos(tmp_path)
    assert listed.dataset == "folder"
    assert sorted(labelled(listed)) == ["clips/a.avi", "clips/b.avi"]
    assert any(f"{own}: has no column path (found videoid, title, duration)" in note for note in listed.warnings())
    with pytest.raises(DataError, match="has no column path"):
        list_videos(own)
    write_lines(own, "path,title", "elsewhere/x.avi,x")
    with pytest.raises(DataError, match=r"none of the videos .* --data\.dataset folder"):
        list_videos(tmp_path)
    assert len(list_videos(tmp_path, dataset="folder").videos) == 2


def test_tables_of_spreadsheets(tmp_path: Path) -> None:
    """What Excel calls Unicode text: UTF-16, separated by tabs; and a table in an encoding that nothing tells."""
    touch(tmp_path, "é.mp4", "b.mp4")
    (tmp_path / "own.tsv").write_text("path\tlabel\né.mp4\tgehört\nb.mp4\tx\n", encoding="utf-16")
    listed = list_videos(tmp_path / "own.tsv")
    assert listed.classes == ["gehört", "x"]
    assert names(listed) == ["b.mp4", "é.mp4"]
    (tmp_path / "own.csv").write_text("path,label\né.mp4,x\n", encoding="latin-1")
    with pytest.raises(DataError, match="save it as UTF-8"):
        list_videos(tmp_path / "own.csv")


def test_classes_that_are_nearly_called_the_same(tmp_path: Path) -> None:
    touch(tmp_path, "caf\u00e9/1.mp4", "cafe\u0301/2.mp4", "run/3.mp4")
    assert list_videos(tmp_path).warnings() == [
        r"classes that are nearly called the same count as different ones: 'cafe\u0301' and 'caf\xe9'"
    ]


def test_what_network_disks_and_wastebaskets_keep_is_no_data(tmp_path: Path) -> None:
    touch(tmp_path, "jump/1.mp4", "run/2.mp4", "run/@eaDir/2.mp4/SYNOVIDEO_FILM.mp4", "$RECYCLE.BIN/$R1.mp4")
    touch(tmp_path, "$Recycle.Bin/$R1.mp4", "@Recently-Snapshot/jump/1.mp4")
    listed = list_videos(tmp_path, "all")
    assert (names(listed), listed.classes) == (["jump/1.mp4", "run/2.mp4"], ["jump", "run"])
