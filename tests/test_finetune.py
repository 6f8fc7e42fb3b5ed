import json
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fima.checkpoints.checkpoint import ClassifierCheckpoint, load_checkpoint
from fima.checkpoints.classifier import Classifier, load_classifier
from fima.checkpoints.pretrained import encoder_file
from fima.checkpoints.run_folder import RunFolder
from fima.cli import main
from fima.config import FinetuneConfig
from fima.data.datasets import VideoList, list_videos
from fima.data.eval_clips import ClipSettings
from fima.errors import DataError, TrainingError
from fima.evaluate import classifier_result as testing
from fima.evaluate.classifier_result import ClassifierScores
from fima.evaluate.extract import Resources
from fima.recipe import read_recipe
from fima.synthetic.motion_textures import MotionTextureSettings, make_motion_textures
from fima.train import finetune as finetuning
from fima.train.finetune import Finetuning, finetune
from fima.train.task import TrainingResult
from tests.finetune_runs import FROZEN, SMALL, after, changed
from tests.small_runs import assert_same_training, make_videos, read_lines
from tests.test_loop import at_step, raise_signal
from tests.video_files import truncate

CPU = torch.device("cpu")
MOTION_SHARES = ("foreground/motion_share", "foreground/motion_rgb_share")


def test_a_run_is_whole(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunFolder(tmp_path / "run")
    outcome = finetune(changed("optim", epochs=3, milestones=(1, 2)), pretrained=None, data=videos, out=run.root)
    assert outcome.signal_number is None
    assert (outcome.progress.epoch, outcome.progress.step) == (3, 6)
    assert [path.name for path in sorted(run.checkpoint_folder.iterdir())] == ["epoch-003.pt", "last-1.pt", "last.pt"]
    assert [line["lr"] for line in read_lines(run.metrics, "epoch")] == pytest.approx([0.05, 0.005, 0.0005])
    steps, epochs = read_lines(run.metrics, "step"), read_lines(run.metrics, "epoch")
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert epochs[0]["loss"] == pytest.approx((steps[0]["loss"] + steps[1]["loss"]) / 2)
    assert [line["epoch"] for line in read_lines(run.metrics, "test")] == [1, 2]
    result = json.loads(run.result.read_text())
    assert result["figures"] == (outcome.result and outcome.result.figures)
    assert result["figures"].keys() == {"finetune/top1", "finetune/top5", *MOTION_SHARES}
    assert result["chance"].keys() == result["figures"].keys()
    assert (result["chance"]["finetune/top1"], result["chance"]["finetune/top5"]) == (50, 100)
    assert result["protocols"]["foreground"]["num_videos"] == 2
    protocol = result["protocols"]["finetune"]
    assert protocol["selection"] == "the last epoch"
    assert protocol["score"] == "logits averaged over 2 clips x 1 crops"
    assert protocol["optimizer"]["milestones"] == [1, 2]
    assert protocol["dropout"] == 0.5
    assert result["data"]["test"]["num_evaluated"] == 2
    assert result["encoder"]["file"] == "scratch"
    rows = (run.root / "confusion.csv").read_text().splitlines()
    assert rows[0].split(",")[1:] == ["a", "b"]
    assert (run.root / "per_class.csv").exists()
    assert read_recipe(run.config, FinetuneConfig) == changed("optim", epochs=3, milestones=(1, 2))
    assert "epoch 3/3" in capsys.readouterr().out


def test_it_overfits_a_handful_of_videos(videos: Path, tmp_path: Path) -> None:
    config = changed("optim", epochs=25, lr=0.01, milestones=(15,))
    config = changed("classifier", changed("data", config, min_area=0.9, grayscale=0.0, jitter=0.0), dropout=0.0)
    run = RunFolder(tmp_path / "run")
    finetune(changed("test", config, every_epochs=25), pretrained=None, data=videos, out=run.root)
    losses = [line["loss"] for line in read_lines(run.metrics, "epoch")]
    assert losses[-1] < 0.2 * losses[0]
    loaded = load_classifier(run.last, device=CPU)
    scores = testing.test_classifier(
        loaded.model,
        list_videos(videos, "train"),
        ClipSettings(frames=4, crop_size=32, num_clips=3),
        Resources(batch_size=8),
        log_softmax=False,
    )
    assert scores.top(1) == 100


def test_a_frozen_encoder_stays_byte_for_byte(videos: Path, pretrained: Path, tmp_path: Path) -> None:
    saved = after(videos, tmp_path / "run", changed("classifier", freeze=True, dropout=0.7), pretrained)
    before = torch.load(pretrained, weights_only=True)["model"]
    encoder = {name: value for name, value in saved.model.items() if name.startswith("encoder.")}
    assert len(encoder) > 5
    assert all(torch.equal(value, before[f"query_{name}"]) for name, value in encoder.items())
    assert saved.config.classifier.dropout == 0
    assert list(saved.optimizer["state"]) == [0, 1]
    assert saved.source["file"] == str(pretrained)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["figures"].keys() == {"linear_sgd/top1", "linear_sgd/top5", *MOTION_SHARES}
    assert result["protocols"]["linear_sgd"]["batch_norm"] == "running statistics of the pre-training"
    assert result["encoder"]["checkpoint_hash"] == saved.source["checkpoint_hash"]


def test_fine_tuning_begins_from_the_pretrained_encoder_and_moves_it(
    videos: Path, pretrained: Path, tmp_path: Path
) -> None:
    config = changed("classifier", backbone=None, num_classes=None)
    still = after(videos, tmp_path / "still", changed("optim", config, lr=0.0, weight_decay=0.0), pretrained).model
    moved = after(videos, tmp_path / "moved", config, pretrained)
    before = torch.load(pretrained, weights_only=True)["model"]
    name = "encoder.layers.1.weight"
    assert torch.equal(still[name], before[f"query_{name}"])
    assert not torch.equal(moved.model[name], before[f"query_{name}"])
    assert (moved.config.classifier.backbone, moved.config.classifier.num_classes) == ("tiny", 2)


CHOSEN_ON_OTHERS = changed("optim", changed("classifier", select="validation", held_out_share=0.3), batch_size=3)


@pytest.fixture(scope="module")
def whole(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that nothing has interrupted."""
    run = RunFolder(tmp_path_factory.mktemp("whole") / "run")
    finetune(CHOSEN_ON_OTHERS, pretrained=None, data=videos, out=run.root)
    return run


@pytest.mark.parametrize("stop_step", [1, 2, 3], ids=["inside epoch 1", "end of epoch 1", "inside epoch 2"])
def test_resumed_equals_uninterrupted_bit_for_bit(
    stop_step: int, whole: RunFolder, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CHOSEN_ON_OTHERS
    assert config.classifier.dropout > 0
    run = RunFolder(tmp_path / "parts")
    with monkeypatch.context() as patch:
        at_step(patch, stop_step, raise_signal(signal.SIGTERM), of=finetuning)
        outcome = finetune(config, pretrained=None, data=videos, out=run.root)
    assert (outcome.signal_number, outcome.progress.step) == (signal.SIGTERM, stop_step)
    assert not run.result.exists()
    torch.manual_seed(999)
    assert finetune(config, pretrained=None, data=videos, out=run.root, resume=True).signal_number is None
    for resumed, expected in ((run.last, whole.last), (run.best, whole.best)):
        assert_same_training(
            load_checkpoint(resumed, ClassifierCheckpoint), load_checkpoint(expected, ClassifierCheckpoint)
        )
    for kind in ("step", "validation"):
        losses = [[line.get("loss", line.get("top1")) for line in read_lines(x.metrics, kind)] for x in (run, whole)]
        assert losses[0] == losses[1]
    assert json.loads(run.result.read_text())["figures"] == json.loads(whole.result.read_text())["figures"]


def test_a_damaged_checkpoint_costs_an_epoch_and_other_videos_are_refused(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(tmp_path / "run")
    whole = after(videos, run.root)
    result = run.result.read_bytes()
    run.numbered(2).unlink()
    truncate(run.last, 0.5)
    others = Path(shutil.copytree(videos, tmp_path / "others"))
    names = {
        split: [f"{each.path.parent.name}/{each.path.name}" for each in list_videos(videos, split).videos]
        for split in ("train", "test")
    }
    rows = [f"{name},{'ba'[name > 'b']},{split}" for split in names for name in names[split]]
    (others / "videos.csv").write_text("\n".join(["path,label,split", *rows]))
    with pytest.raises(DataError, match=r"the labels of its training videos are not those that the run"):
        finetune(SMALL, pretrained=None, data=others, out=run.root, resume=True)
    (others / "videos.csv").unlink()
    (others / "a" / "00.avi").rename(others / "a" / "new.avi")
    with pytest.raises(DataError, match=r"8 training videos, as in the run .* but not the same ones"):
        finetune(SMALL, pretrained=None, data=others, out=run.root, resume=True)
    capsys.readouterr()
    finetune(SMALL, pretrained=None, data=videos, out=run.root, resume=True)
    assert f"GOING BACK TO {run.before_last(1)[0]}" in capsys.readouterr().err
    assert_same_training(load_checkpoint(run.last, ClassifierCheckpoint), whole)
    assert run.result.read_bytes() == result
    assert [line["step"] for line in read_lines(run.metrics, "step")] == [1, 2, 3, 4]


def test_a_run_that_is_ended_in_a_test_does_it_again(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "run")

    def die(*arguments: object, **options: object) -> ClassifierScores:
        raise SystemError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("fima.train.finetune.test_classifier", die)
        with pytest.raises(SystemError):
            finetune(SMALL, pretrained=None, data=videos, out=run.root)
    assert load_checkpoint(run.last, ClassifierCheckpoint).progress.epoch == 1
    outcome = finetune(SMALL, pretrained=None, data=videos, out=run.root, resume=True)
    assert outcome.result is not None
    assert [line["epoch"] for line in read_lines(run.metrics, "test")] == [1]
    run.result.unlink()
    again = finetune(SMALL, pretrained=None, data=videos, out=run.root, resume=True)
    assert again.result is not None
    assert again.result.figures == outcome.result.figures
    assert finetune(SMALL, pretrained=None, data=videos, out=run.root, resume=True).result is None


def test_a_run_that_goes_on_for_more_epochs_has_no_result_until_it_is_tested_again(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, longer = RunFolder(tmp_path / "run"), changed("optim", epochs=3)
    finetune(SMALL, pretrained=None, data=videos, out=run.root)
    with monkeypatch.context() as patch:
        patch.setattr(Finetuning, "finish", lambda *arguments: sys.exit("killed"))
        with pytest.raises(SystemExit):
            finetune(longer, pretrained=None, data=videos, out=run.root, resume=True)
    assert load_checkpoint(run.last, ClassifierCheckpoint).progress.epoch == 3
    assert not run.result.exists()
    assert finetune(longer, pretrained=None, data=videos, out=run.root, resume=True).result is not None
    assert json.loads(run.result.read_text())["notes"]["finetune"]["epoch"] == 3


class TestSelection:
    """Which epoch is the result, and which videos decide it."""

    @pytest.fixture(autouse=True)
    def _record(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Replace the scores by ones that are right in the second test, and wrong before and after."""
        self.lists: list[list[str]] = []
        self.tested = torch.empty(0)

        def fake(model: Classifier, videos: VideoList, *settings: object, log_softmax: bool) -> ClassifierScores:
            self.tested = model.fc.weight.detach().clone()
            self.lists.append([str(video.path) for video in videos.videos])
            labels = torch.tensor([int(video.label or 0) for video in videos.videos])
            right = torch.nn.functional.one_hot(labels, 2).double()
            scores = right if len(self.lists) == 2 else 1 - right
            return ClassifierScores(scores=scores, labels=labels, paths=self.lists[-1], undecodable=[])

        monkeypatch.setattr("fima.train.finetune.test_classifier", fake)

    def finetune(self, videos: Path, out: Path, select: str) -> tuple[TrainingResult, set[str], set[str]]:
        config = changed("optim", changed("classifier", select=select, held_out_share=0.25), epochs=3)
        outcome = finetune(config, pretrained=None, data=videos, out=out)
        train, test = ({str(video.path) for video in list_videos(videos, split).videos} for split in ("train", "test"))
        return outcome, train, test

    def test_validation_never_looks_at_a_test_video(self, videos: Path, tmp_path: Path) -> None:
        outcome, train, test = self.finetune(videos, tmp_path / "run", "validation")
        *chosen_on, final = map(set, self.lists)
        assert len(chosen_on) == 3
        assert all(held_out == chosen_on[0] and held_out < train for held_out in chosen_on)
        assert final == test
        assert outcome.result is not None
        assert outcome.result.notes["finetune"] == {"epoch": 2, "top1_that_chose_it": 100}
        assert "held out of the training split" in outcome.result.protocols["finetune"]["selection"]
        assert outcome.result.data["train"]["num_videos"] == 6
        assert outcome.result.data["validation"]["num_videos"] == len(chosen_on[0]) == 2
        run = RunFolder(tmp_path / "run")
        best, last = (load_checkpoint(path, ClassifierCheckpoint) for path in (run.best, run.last))
        assert (best.progress.epoch, last.progress.epoch) == (2, 3)
        assert torch.equal(self.tested, best.model["fc.weight"])
        assert not torch.equal(self.tested, last.model["fc.weight"])
        assert encoder_file(run.root) == run.best, "what every command takes for the folder of the run"

    def test_selection_on_the_test_split_is_said_in_words(
        self, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        outcome, _, test = self.finetune(videos, tmp_path / "run", "test")
        assert all(set(paths) == test for paths in self.lists)
        assert len(self.lists) == 4
        assert outcome.result is not None
        assert "TEST split, so the figure flatters" in outcome.result.protocols["finetune"]["selection"]
        assert outcome.result.notes["finetune"]["epoch"] == 2
        assert "flatters" in capsys.readouterr().err

    def test_the_last_epoch_is_tested_once(self, videos: Path, tmp_path: Path) -> None:
        outcome, _, test = self.finetune(videos, tmp_path / "run", "last")
        assert [set(paths) for paths in self.lists] == [test] * 3
        assert outcome.result is not None
        assert outcome.result.figures["finetune/top1"] == 0
        assert encoder_file(tmp_path / "run") == RunFolder(tmp_path / "run").last
        assert not RunFolder(tmp_path / "run").best.exists()


def test_synthetic_videos_are_tested_with_other_backgrounds_and_by_their_masks(tmp_path: Path) -> None:
    data = tmp_path / "data"
    make_motion_textures(data, MotionTextureSettings(num_train=20, num_test=10, size_px=40, num_frames=12), workers=0)
    config = changed("optim", changed("classifier", num_classes=None), epochs=1)
    outcome = finetune(config, pretrained=None, data=data, out=tmp_path / "run")
    assert outcome.result is not None
    figures, lists = outcome.result.figures, outcome.result.data
    assert {"finetune/swapped/top1", "finetune/removed/top5", "foreground/share"} < figures.keys()
    assert [lists[name]["num_evaluated"] for name in ("test", "swapped", "removed")] == [10, 10, 10]
    assert all((tmp_path / "run" / name / "confusion.csv").exists() for name in (".", "swapped", "removed"))
    evaluated = evaluate_checkpoint(tmp_path / "run", data)
    assert evaluated["evaluate/swapped/top1"] == figures["finetune/swapped/top1"]
    assert evaluated["foreground/share"] == pytest.approx(figures["foreground/share"], rel=1e-5)


def evaluate_checkpoint(run: Path, data: Path) -> dict[str, float]:
    """What `fima evaluate` says of a run's classifier."""
    checkpoint = RunFolder(run).last
    small = ["--num-clips", "2", "--batch-size", "2", "--workers", "0", "--device", "cpu"]
    assert main(["evaluate", str(checkpoint), str(data), *small]) == 0
    figures: dict[str, float] = json.loads((run / "evaluation" / "last.json").read_text())["figures"]
    return figures


def test_low_shot_trains_on_few_videos_of_every_class(videos: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    outcome = finetune(changed("classifier", low_shot=4), pretrained=None, data=videos, out=run.root)
    assert outcome.progress.videos_tried == 4 * 2
    assert outcome.result is not None
    assert outcome.result.data["train"]["num_videos"] == 4
    assert outcome.result.protocols["finetune"]["low_shot"] == 4
    with pytest.raises(DataError, match="100 videos asked for"):
        finetune(changed("classifier", low_shot=100), pretrained=None, data=videos, out=tmp_path / "more")


def test_parts_of_a_batch_give_the_gradient_of_the_batch(videos: Path, tmp_path: Path) -> None:
    """With a frozen encoder, whose batch norm does not see the batch."""
    config = changed("optim", FROZEN, lr=1.0)
    variants: list[dict[str, Any]] = [{"lr": 0.0}, {"accumulate": 1}, {"accumulate": 3}]
    start, whole, parts = (
        after(videos, tmp_path / str(number), changed("optim", config, **values)).model["fc.weight"]
        for number, values in enumerate(variants)
    )
    assert (whole - start).abs().max() > 1e-3
    torch.testing.assert_close(parts - start, whole - start, rtol=1e-3, atol=1e-6)


def test_a_loss_that_is_not_finite_stops_the_run(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the loss is not finite \((nan|inf)\).*no checkpoint is written yet"):
        finetune(changed("optim", lr=1e30), pretrained=None, data=videos, out=tmp_path / "run")


def test_videos_that_cannot_be_decoded_are_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_videos(tmp_path / "videos")
    train, test = (list_videos(folder, split).videos[0].path for split in ("train", "test"))
    truncate(train, 0.3)
    truncate(test, 0.3)
    run = RunFolder(tmp_path / "run")
    outcome = finetune(changed("data", max_skipped_share=0.5), pretrained=None, data=folder, out=run.root)
    assert {line["path"] for line in read_lines(run.skipped)} == {str(train)}
    assert outcome.result is not None
    assert outcome.result.data["test"]["num_evaluated"] == 1
    assert outcome.result.data["test"]["undecodable"][0]["path"] == str(test)
    assert "without 1 test video that cannot be decoded; see " in capsys.readouterr().err
