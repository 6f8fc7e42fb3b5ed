"""`fima evaluate`: splits, checkpoints of other programs, classifiers, several processes."""

import csv
import importlib
import json
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pytest
import torch

from fima.cli import main
from fima.commands.labelled import evaluation_file
from fima.data.eval_clips import ClipSettings
from fima.evaluate.classifier_result import test_classifier as score_videos
from fima.evaluate.evaluate import collect
from fima.evaluate.extract import Resources
from fima.evaluate.loaded_model import _program_of, load_subject
from fima.evaluate.protocols import PROTOCOLS, EvaluationConfig
from fima.evaluate.splits import list_splits
from fima.torch_tools.distributed import is_main
from tests.evaluation_data import CLASSES, write_classifier, write_state_dict, write_three_splits
from tests.gloo import run_processes
from tests.layout_files import write_lines

Capture = pytest.CaptureFixture[str]

CPU = torch.device("cpu")
SMALL = ["--num-clips", "2", "--workers", "0", "--device", "cpu"]
SMALL_CLIPS = ["--frames", "4", "--crop-size", "32"]


def evaluate(*words: object) -> dict[str, Any]:
    argv = [str(word) for word in words]
    assert main(["evaluate", *argv, *SMALL]) == 0
    loaded: dict[str, Any] = json.loads(Path(argv[argv.index("--out") + 1]).read_text())
    return loaded


def refused(capsys: Capture, *words: object) -> str:
    capsys.readouterr()
    assert main(["evaluate", *(str(word) for word in words), *SMALL]) == 2
    *_, error = capsys.readouterr().err.strip().splitlines()
    assert error.startswith("fima: error: ")
    return error


def test_the_list_of_protocols_is_that_of_the_page(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["evaluate", "--list-protocols", "--quiet"]) == 0
    lines = [[cell.strip() for cell in line.split("│")[1:4]] for line in capsys.readouterr().out.splitlines()]
    listed = {cells[0]: cells[1:] for cells in lines if len(cells) == 3}
    assert set(listed) == {*PROTOCOLS, "linear_low_shot"}
    page = (Path(__file__).parents[1] / "docs" / "protocols.md").read_text(encoding="utf-8")
    for name, (version, measures) in listed.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert row.split(" | ")[1] == version
        assert measures
        assert measures in row


def test_splits_give_mean_and_deviation(tmp_path: Path, capsys: Capture) -> None:
    splits = write_three_splits(tmp_path / "ucf", misplaced=0)
    checkpoint = write_state_dict(tmp_path / "weights.pt")
    words = [checkpoint, splits, *SMALL_CLIPS, "--protocols", "linear", "knn", "retrieval", "--dataset", "ucf101"]
    together = evaluate(*words, "--splits", 1, 2, 3, "--out", tmp_path / "all.json")
    output = capsys.readouterr().out
    assert all(word in output for word in ("split 1", "split 2", "split 3", "mean ± sd"))
    alone = {n: evaluate(*words, "--splits", n, "--out", tmp_path / f"{n}.json") for n in (1, 2, 3)}
    assert together["splits"] == {str(n): result["figures"] for n, result in alone.items()}
    for name, value in together["figures"].items():
        values = [result["figures"][name] for result in alone.values()]
        assert value == pytest.approx(mean(values))
        assert together["sd"][name] == pytest.approx(stdev(values))
    # The misplaced video is tested in the first split, where it is one of six, and trained on in the others.
    assert together["sd"]["retrieval/R@1"] > 5
    for n, result in alone.items():
        assert together["data"][f"split {n}"] == result["data"]
        assert together["notes"][f"split {n}"] == result["notes"]
        assert result["splits"] == {}
    assert {n: result["data"]["test"]["split_index"] for n, result in alone.items()} == {1: 1, 2: 2, 3: 3}
    # All of it from one extraction: each of the 18 videos is once in the cache.
    (folder,) = (tmp_path / "evaluation" / "cache").iterdir()
    assert len(list(folder.iterdir())) == 1


def test_confusion_matrices_lie_beside_the_json(splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = write_state_dict(tmp_path / "weights.pt")
    result = evaluate(checkpoint, splits, *SMALL_CLIPS, "--out", tmp_path / "new" / "result.json")
    for name in ("linear", "knn"):
        with (tmp_path / "new" / "result" / name / "confusion.csv").open(newline="") as file:
            header, *rows = csv.reader(file)
        assert header[1:] == [row[0] for row in rows] == list(CLASSES)
        counts = np.array([row[1:] for row in rows], dtype=int)
        assert counts.sum(axis=1).tolist() == [2, 2, 2]
        assert 100 * counts.trace() / counts.sum() == pytest.approx(result["figures"][f"{name}/top1"])
    other = tmp_path / "new" / "result" / "other" / "linear" / "confusion.csv"  # of another evaluation
    other.parent.mkdir(parents=True)
    other.touch()
    words = ["--protocols", "knn", "--out", tmp_path / "new" / "result.json"]
    evaluate(checkpoint, splits, *SMALL_CLIPS, *words)
    assert not (tmp_path / "new" / "result" / "linear" / "confusion.csv").exists(), "not measured this time"
    assert (tmp_path / "new" / "result" / "knn" / "confusion.csv").exists()
    assert other.exists()
    subject = load_subject(checkpoint, config=EvaluationConfig(), device=CPU)
    with monkeypatch.context() as patch:
        patch.setattr("fima.evaluate.evaluate.measure", lambda *_: pytest.fail("no figures"))
        (collected,) = collect([subject], list_splits(splits, [1]), EvaluationConfig(protocols=("knn",)), device=CPU)
        with pytest.raises(pytest.fail.Exception):
            collected.result(tmp_path / "new" / "result")
    assert (tmp_path / "new" / "result" / "knn" / "confusion.csv").exists(), "kept, where the next evaluation fails"
    evaluate(checkpoint, splits, *SMALL_CLIPS, "--protocols", "knn", "--splits", 1, 3, "--out", tmp_path / "two.json")
    assert sorted(path.parent.parent.name for path in (tmp_path / "two").rglob("per_class.csv")) == [
        "split-1",
        "split-3",
    ]


def test_other_weights_in_the_same_file_are_measured_anew(splits: Path, tmp_path: Path) -> None:
    results = []
    for seed in (0, 1, 0):
        checkpoint = write_state_dict(tmp_path / "weights.pt", seed)
        words = [checkpoint, splits, *SMALL_CLIPS, "--protocols", "same_video", "--out", tmp_path / "result.json"]
        results.append(evaluate(*words))
    hashes = [result["encoder"]["checkpoint_hash"] for result in results]
    assert hashes[0] == hashes[2] != hashes[1]
    assert len(list((tmp_path / "evaluation" / "cache").iterdir())) == 2
    assert results[0]["figures"] == results[2]["figures"]


def test_what_a_foreign_checkpoint_does_not_say_is_said_aloud(splits: Path, tmp_path: Path, capsys: Capture) -> None:
    checkpoint = write_state_dict(tmp_path / "weights.pt")
    words = [checkpoint, splits, "--protocols", "knn", "--out", tmp_path / "result.json"]
    result = evaluate(*words, *SMALL_CLIPS)
    assert "does not say which clips" in capsys.readouterr().err
    assert "4 frames of 32 px" in result["encoder"]["assumption"]
    assert result["encoder"]["config"] is None
    subject = load_subject(checkpoint, config=EvaluationConfig(), device=CPU)
    assert (subject.clips.frames, subject.clips.crop_size) == (16, 224)
    assert "i3d" in refused(capsys, *words, "--backbone", "i3d")
    assert "no such checkpoint" in refused(capsys, tmp_path / "none.pt", splits)


def test_wrong_splits_are_refused(splits: Path, tmp_path: Path, capsys: Capture) -> None:
    checkpoint = write_state_dict(tmp_path / "weights.pt")
    assert "--splits 1 1: give each split once" in refused(capsys, checkpoint, splits, "--splits", "1", "1")
    assert "04.txt" in refused(capsys, checkpoint, splits, "--splits", "1", "4")
    assert "no classifier" in refused(capsys, checkpoint, splits, "--protocols", "evaluate", *SMALL_CLIPS)
    assert "--crop-size 4: must be at least 8" in refused(capsys, checkpoint, splits, "--crop-size", "4")
    assert "--out result: must end in .json" in refused(capsys, checkpoint, splits, "--out", "result")
    for count in ("3", "500"):
        said = f"--low-shot {count}: split 1: takes more than its 3 classes"
        assert said in refused(capsys, checkpoint, splits, "--low-shot", count, *SMALL_CLIPS)
    assert not (tmp_path / "evaluation" / "cache").exists(), "refused before any video was decoded"


def test_a_classifier_is_scored_by_its_own_head(splits: Path, tmp_path: Path) -> None:
    checkpoint = write_classifier(tmp_path / "classifier.pt", seed=3)
    by_name = ["--group-by", "[^.]+"]  # each video is its own group
    result = evaluate(checkpoint, splits, "--num-crops", 3, *by_name, "--out", tmp_path / "result.json")
    low, high = result["intervals"]["evaluate/top1"]
    assert low <= result["figures"]["evaluate/top1"] <= high
    assert result["num_groups"] >= 4
    on_what_moves = {"foreground/motion_share", "foreground/motion_rgb_share"}
    assert set(result["figures"]) == {"evaluate/top1", "evaluate/top5"} | on_what_moves
    assert result["figures"]["evaluate/top5"] == 100
    assert result["chance"]["evaluate/top1"] == pytest.approx(100 / 3)
    settings = result["protocols"]["evaluate"]
    # The resolution is the one that it was trained to be tested at, since no flag says another.
    assert settings["clips"] == {
        "frames": 4, "crop_size": 32, "num_clips": 2, "num_crops": 3, "ori_resolution": 256,
        "stride": 2.0, "fps": 0.0, "frame_rate": 0.0, "span": 0.0,
    }  # fmt: skip
    assert settings["averaged"].startswith("logits")
    assert (settings["dropout"], settings["selection"], settings["optim"]["lr"]) == (0.7, "last", 0.01)
    assert result["encoder"]["classifier"]["source"] == {"file": "scratch"}
    subject = load_subject(checkpoint, config=EvaluationConfig(), device=CPU)
    assert subject.classifier is not None
    scores = score_videos(
        subject.classifier.model,
        list_splits(splits, [1])[1].test,
        ClipSettings(frames=4, crop_size=32, num_clips=2, num_crops=3, ori_resolution=256),
        Resources(batch_size=8),
        log_softmax=False,
    )
    assert result["figures"]["evaluate/top1"] == scores.top(1)
    assert (tmp_path / "result" / "evaluate" / "confusion.csv").exists()


def test_the_encoder_of_a_classifier_can_be_measured_too(splits: Path, tmp_path: Path) -> None:
    checkpoint = write_classifier(tmp_path / "classifier.pt")
    words = [checkpoint, splits, "--protocols", "evaluate", "knn", "--out", tmp_path / "result.json"]
    result = evaluate(*words)
    assert set(result["figures"]) == {"evaluate/top1", "evaluate/top5", "knn/top1"}
    assert result["protocols"]["knn"]["clips"]["ori_resolution"] is None


def test_a_classifier_is_not_tested_on_what_it_was_trained_on(splits: Path, tmp_path: Path, capsys: Capture) -> None:
    checkpoint = write_classifier(tmp_path / "classifier.pt", split=2)
    for protocols in ("evaluate", "linear"):
        error = refused(capsys, checkpoint, splits, "--protocols", protocols, "--splits", "2", "3")
        assert "trained on the labels of split 2" in error
        error = refused(capsys, checkpoint, splits, "--protocols", protocols, "--folds", "2", "--group-by", "[^.]+")
        assert "fold 0: the checkpoint was trained on the labels of split 2" in error
    result = evaluate(checkpoint, splits, "--out", tmp_path / "result.json")
    assert result["data"]["test"]["split_index"] == 2
    other = write_classifier(tmp_path / "other.pt", ["Dark", "Light", "Bright"])
    assert "`Light` where it has `Medium, Grey`" in refused(capsys, other, splits)
    more = write_classifier(tmp_path / "more.pt", [*CLASSES, "Another"])
    assert "4 classes, not 3" in refused(capsys, more, splits)
    evaluate(other, splits, "--protocols", "knn", "--splits", 2, 3, "--out", tmp_path / "result.json")


def figures_in_process(_: int, checkpoint: Path, splits: Path, cache: Path | None) -> dict[str, float] | None:
    """Figures of all protocols on two splits; None but in the main process."""
    config = EvaluationConfig(
        protocols=("evaluate", "linear", "knn", "retrieval", "foreground"), num_clips=2, workers=0, batch_size=1
    )
    subject = replace(load_subject(checkpoint, config=config, device=CPU), cache=cache)
    lists = list_splits(splits, [1])
    mask = np.zeros((10, 32, 32), dtype=np.bool_)
    mask[:, 5:20, 9:20] = True
    (collected,) = collect([subject], lists, config, device=CPU, load_mask=lambda _: mask)
    return collected.result()[0].figures if is_main() else None


def test_two_processes_give_the_figures_of_one(splits: Path, tmp_path: Path) -> None:
    checkpoint = write_classifier(tmp_path / "classifier.pt", seed=3)
    first, second = run_processes(figures_in_process, 2, tmp_path / "gloo", checkpoint, splits, tmp_path / "cache")
    assert second is None
    alone = figures_in_process(0, checkpoint, splits, None)
    assert alone is not None
    assert {"evaluate/top1", "linear/top1", "retrieval/R@5", "foreground/share"} <= alone.keys()
    assert first == pytest.approx(alone)


def test_results_of_the_package_s_encoder_go_to_the_current_folder(tmp_path: Path) -> None:
    small = load_subject("small", config=EvaluationConfig(), device=CPU)

    def file_of(source: Path | str = "small", **changes: Any) -> Path:  # noqa: ANN401
        return evaluation_file(replace(small, source=str(source), encoder=replace(small.encoder, **changes)))

    assert file_of() == Path("small-evaluation", "small.json")
    run, apart = tmp_path / "run", tmp_path / "apart" / "last.pt"
    assert file_of(run, file=run / "checkpoints" / "last.pt") == run / "evaluation" / "last.json"
    assert file_of(file=tmp_path / "weights.pt") == tmp_path / "evaluation" / "weights.json"
    assert file_of(file=None, name="a/b: c") == Path("a-b-c-evaluation", "a-b-c.json")
    write_lines(run / "config.yaml", "{}")
    assert file_of(run, file=apart) == run / "evaluation" / "last.json"


def test_maps_alone_are_measured_in_folds(checkpoint: Path, splits: Path, tmp_path: Path) -> None:
    words = ["--group-by", "(.)[.]avi", "--folds", 2, "--protocols", "foreground", *SMALL_CLIPS]
    result = evaluate(checkpoint, splits, *words, "--out", tmp_path / "result.json")
    assert len(result["splits"]) == 2
    assert "foreground/motion_share" in result["figures"]


def test_features_of_an_edited_backbone_are_other_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    program = tmp_path / "edited_network.py"
    write_lines(program, "from torch import nn", "class Network(nn.Module):", "    num_features = 8")
    network = importlib.import_module("edited_network").Network()
    before = _program_of("another", network)
    assert _program_of("another", network) == before != ""
    assert _program_of("tiny", network) == ""
    program.write_text(program.read_text().replace("8", "9"))
    assert _program_of("another", network) not in (before, "")
