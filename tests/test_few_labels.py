"""`benchmarks/few_labels.py`: who has labels, and the table of figures that are there."""

import json
from pathlib import Path

import pytest

from few_labels import labelled_groups, main
from real_table import read_table


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Four people with a video of each of two classes, in two folds."""
    rows = ["path,label,group,fold"]
    for number, group in enumerate("pqrs"):
        for label in "xy":
            (tmp_path / f"{group}{label}.mp4").touch()
            rows.append(f"{group}{label}.mp4,{label},{group},{number // 2}")
    file = tmp_path / "videos.csv"
    file.write_text("\n".join(rows) + "\n")
    return file


def test_labels_are_of_training_people_the_same_for_all_rows_and_fewer_are_among_more(table: Path) -> None:
    listed = read_table(table, "fold")
    for seed in range(5):
        one, two = (labelled_groups(listed, "0", seed, count) for count in (1, 2))
        assert one < two == {"r", "s"}
        assert labelled_groups(listed, "0", seed, 1) == one
    assert len({frozenset(labelled_groups(listed, "1", seed, 1)) for seed in range(9)}) == 2
    with pytest.raises(SystemExit, match="fold 0 trains on 2 groups"):
        labelled_groups(listed, "0", 0, 3)


def test_the_table_of_prepared_videos_finds_them_by_their_new_extension(table: Path) -> None:
    table.write_text(table.read_text().replace(".mp4", ".avi"))
    assert read_table(table, "fold").paths == [f"{group}{label}.mp4" for group in "pqrs" for label in "xy"]
    (table.parent / "qx.mp4").unlink()
    with pytest.raises(SystemExit, match=r"line 4: qx.avi: there is no such file"):
        read_table(table, "fold")
    table.write_text(table.read_text().replace("qx.avi", "../qx.avi"))
    with pytest.raises(SystemExit, match="points outside"):
        read_table(table, "fold")


def test_the_table_averages_seeds_and_takes_differences(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hits = {("shipped", 0): [True, False, False, False], ("shipped", 1): [True, True, False, False]}
    hits |= {("fima_warm", seed): [True, True, True, False] for seed in (0, 1)}
    for (row, seed), right in hits.items():
        for fold in "01":
            file = table.parent / "out" / "2-labelled" / row / f"fold-{fold}-seed-{seed}" / "probed.json"
            file.parent.mkdir(parents=True)
            file.write_text(json.dumps({"linear": right}))
    flags = ["--runs", str(table.parent), "--out", str(table.parent / "out"), "--labelled", "2", "--seeds", "0", "1"]
    main([str(table), *flags, "--rows", "fima_warm", "shipped"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "labelled, " not in line]
    assert [line[-1] for line in lines] == ["linear", "75.0", "37.5", "+37.5"]


def test_what_cannot_be_measured_is_refused(table: Path) -> None:
    flags = ["--runs", str(table.parent / "none"), "--out", str(table.parent / "out"), "--device", "cpu"]
    with pytest.raises(SystemExit, match=r"there is no such run; train it with real_video.py --rows moco_warm"):
        main([str(table), *flags, "--labelled", "2", "--rows", "moco_warm"])
    with pytest.raises(SystemExit):
        main([str(table), *flags, "--labelled", "1"])
