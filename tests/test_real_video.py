"""The table of `benchmarks/real_video.py`, from figures that are there."""

import json
from pathlib import Path

import pytest

from real_video import cell_folder, main


def write_hits(out: Path, row: str, fold: str, seed: int, **content: object) -> None:
    file = cell_folder(out, row, fold, seed) / "hits.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def test_the_table_averages_seeds_and_names_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, out = tmp_path / "videos.csv", tmp_path / "out"
    table.write_text("path,label,group,fold\na.mp4,x,p,0\nb.mp4,y,p,0\nc.mp4,x,q,1\nd.mp4,y,q,1\n")
    for name in "abcd":
        (tmp_path / f"{name}.mp4").touch()
    videos = {"0": ["a.mp4", "b.mp4"], "1": ["d.mp4", "c.mp4"]}
    linear = {("0", 0): [True, True], ("1", 0): [True, False], ("0", 1): [True, True], ("1", 1): [True, True]}
    for (fold, seed), hits in linear.items():
        found = {"fima": {"linear": hits, "knn": hits, "r1": [False, False]}, "supervised": {"linear": [True, False]}}
        for row, of_row in found.items():
            write_hits(out, row, fold, seed, videos=videos[fold], hits=of_row)
    write_hits(out, "moco", "0", 0, videos=videos["0"], hits={"linear": [True, True]})
    rows = ["--rows", "fima", "supervised", "moco", "--seeds", "0", "1", "--folds"]
    main([str(table), "--out", str(out), *rows])
    shown = capsys.readouterr().out
    assert "4 videos, 2 groups, 2 folds; intervals need 6 groups" in shown
    # By person: p 100, q 75 in the mean over the seeds. Two people say nothing of others, half of each no more.
    fima, supervised = (
        next(line for line in shown.splitlines() if line.lstrip().startswith(title)) for title in ("FIMA", "supervised")
    )
    assert fima.split()[-3:] == ["87.5", "87.5", "0.0"]
    assert supervised.split()[-4:] == ["scratch", "50.0", "–", "–"]
    assert "not all folds measured yet: moco" in shown


@pytest.mark.parametrize(
    ("rows", "flags", "message"),
    [
        ("path,label,group\na.mp4,x,p\n", [], "no column fold"),
        ("path,label,group,fold\n", [], "two folds or more, and has 0"),
        ("path,label,group,fold\na.mp4,x,p,0\nb.mp4,y,q,0\n", [], "two folds or more, and has 1"),
        ("path,label,group,fold\na.mp4,x,p,0\nb.mp4,y,p,1\n", [], "group p is in folds 0 and 1"),
        ("path,label,group,fold\na.mp4,x,p,0\na.mp4,y,q,1\n", [], "a.mp4 comes more than once"),
        ("path,label,group,fold\na.mp4,x,p,0\nb.mp4,y,q\n", [], "line 3: 3 fields, expected 4"),
        ("path,label,group,fold\na.mp4,x,p,0\nb.mp4,,q,1\n", [], "line 3: needs a value for each of path, label"),
        ("path,label,group,fold\na.mp4,x,p,0\nc.mp4,y,q,1\n", [], "line 3: c.mp4: there is no such file"),
        ("path,label,group,fold\na.mp4,x,p,0\nb.mp4,y,q,1\n", ["--folds", "2"], "--folds 2: the table has 0, 1"),
    ],
)
def test_tables_that_would_mislead_are_refused(rows: str, flags: list[str], message: str, tmp_path: Path) -> None:
    table = tmp_path / "videos.csv"
    table.write_text(rows)
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    with pytest.raises(SystemExit, match=message):
        main([str(table), "--out", str(tmp_path / "out"), "--rows", "fima", *flags])


def test_another_table_does_not_get_these_figures(tmp_path: Path) -> None:
    table, out = tmp_path / "videos.csv", tmp_path / "out"
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    table.write_text("path,label,group,fold\na.mp4,x,p,0\nb.mp4,y,q,1\n")
    write_hits(out, "fima", "0", 0, videos=["b.mp4"], hits={"linear": [True]})
    words = [str(table), "--out", str(out), "--rows", "fima", "--folds"]
    with pytest.raises(SystemExit, match="of another table, or of other folds"):
        main(words)
    write_hits(out, "fima", "0", 0, videos=["a.mp4"], hits={"linear": [True]}, labels=["y"])
    with pytest.raises(SystemExit, match="of videos with other labels"):
        main(words)
    settings = {"extra": ["--optim.epochs", "2"]}
    write_hits(out, "fima", "0", 0, videos=["a.mp4"], hits={"linear": [True]}, settings=settings)
    with pytest.raises(SystemExit, match="was measured with another --recipe, --shipped or --extra"):
        main(words)


def test_six_people_have_an_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, out = tmp_path / "videos.csv", tmp_path / "out"
    table.write_text("path,label,group,fold\n" + "".join(f"{p}.mp4,x,{p},{int(p > 'c')}\n" for p in "abcdef"))
    for name in "abcdef":
        (tmp_path / f"{name}.mp4").touch()
    for fold, names in enumerate(("abc", "def")):
        videos = [f"{name}.mp4" for name in names]
        write_hits(out, "fima", str(fold), 0, videos=videos, hits={"linear": [True, True, False]})
    main([str(table), "--out", str(out), "--rows", "fima", "--seeds", "0", "--folds"])
    shown = capsys.readouterr().out
    assert "6 videos, 6 groups, 2 folds\n" in shown
    assert "66.7 (16.7–100.0)" in shown


def test_two_rows_are_compared_on_the_videos_that_both_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, out = tmp_path / "videos.csv", tmp_path / "out"
    folds = {"pqrsuv": "0", "t": "1"}
    table.write_text("path,label,group,fold\n" + "".join(f"{p}.mp4,x,{p},{folds[f]}\n" for f in folds for p in f))
    for name in "pqrsuvt":
        (tmp_path / f"{name}.mp4").touch()
    for row, hits in {"fima_warm": [True] * 5 + [False], "shipped": [True] * 2 + [False] * 4}.items():
        found = {"linear": hits, "knn": hits, "r1": hits[::-1]}
        write_hits(out, row, "0", 0, videos=[f"{name}.mp4" for name in "pqrsuv"], hits=found)
    main([str(table), "--out", str(out), "--rows", "fima_warm", "shipped", "--seeds", "0", "--folds"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "the package's encoder as it is, 6 groups: kNN +50.0 (+0.0 to +100.0)" in shown
    assert "not all folds measured yet: fima_warm, shipped" in shown
