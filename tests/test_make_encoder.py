"""`fima make-encoder`, motion program regression, and the encoder that comes with the package."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch

import fima
from fima.checkpoints.pretrained import ENCODERS, WEIGHTS_FILE
from fima.cli import main
from fima.synthetic.people.bank import Bank, render_bank, standardised
from fima.train.encoder_settings import SyntheticEncoderSettings
from fima.train.motion_regression import Regression, rate, regression_loss

MOST_BYTES = 8 * 2**20
SMALL = SyntheticEncoderSettings(
    videos=16, render_size=32, frames=8, crop_size=32, epochs=6, batch_size=8, lr=0.003, device="cpu"
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bank() -> Bank:
    return render_bank(SMALL.videos, seed=SMALL.seed, side=SMALL.render_size, device=CPU)


def test_targets_are_standardised_and_what_never_varies_is_zero() -> None:
    values = torch.tensor([[1.0, 7.0, 3.0], [2.0, 7.0, -3.0], [6.0, 7.0, 0.0]])
    result = standardised(values)
    torch.testing.assert_close(result.mean(dim=0), torch.zeros(3))
    torch.testing.assert_close(result.std(dim=0), torch.tensor([1.0, 0.0, 1.0]))
    assert result[:, 1].tolist() == [0, 0, 0]


def test_the_loss_is_huber_and_limits_the_targets() -> None:
    predicted = torch.tensor([[0.0, 0.0, 0.0]])
    targets = torch.tensor([[0.5, -2.0, 100.0]])
    assert regression_loss(predicted, targets).item() == pytest.approx((0.125 + 1.5 + 3.5) / 3)


def test_the_learning_rate_warms_up_and_falls() -> None:
    rates = [rate(step, 200) for step in range(200)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(rates[9], abs=1e-9)
    assert rates[100] == pytest.approx(0.5)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] < 1e-3


def test_clips_are_cut_alike_in_every_frame_and_repeat_with_their_draws(bank: Bank) -> None:
    from fima.synthetic.people.draws import Draws

    index = torch.tensor([3, 3, 5])

    def clips(step: int) -> torch.Tensor:
        draws = Draws.of(0, 1, step, num_videos=3, device=CPU)
        return bank.clips(index, draws, frames=8, crop_size=24)

    still = Bank(
        frames=bank.frames[:, :1].expand(-1, 32, -1, -1, -1), squares=bank.squares, targets=bank.targets
    ).clips(index, Draws.of(0, 1, 0, num_videos=3, device=CPU), frames=8, crop_size=24)
    assert clips(0).shape == (3, 3, 8, 24, 24)
    assert 0 <= clips(0).min() < clips(0).max() <= 1
    torch.testing.assert_close(clips(0), clips(0), rtol=0, atol=0)
    assert not torch.equal(clips(0), clips(1))
    assert not torch.equal(clips(0)[0], clips(0)[1]), "one video, two crops"
    torch.testing.assert_close(still, still[:, :, :1].expand_as(still), rtol=0, atol=0)


def test_training_lowers_the_loss_and_repeats_also_after_an_interruption(bank: Bank, tmp_path: Path) -> None:
    kept = tmp_path / "unfinished.pt"

    def losses(*, stop: int | None) -> list[float]:
        training = Regression.begin(SMALL, CPU)
        for epoch in range(SMALL.epochs):
            if epoch == stop:
                training.write(kept)
                training = Regression.read(kept, SMALL, CPU)
            training.train_epoch(bank)
        assert [record.epoch for record in training.records] == list(range(1, SMALL.epochs + 1))
        seconds = [record.seconds for record in training.records]
        assert seconds == sorted(seconds)
        return [record.loss for record in training.records]

    first = losses(stop=None)
    assert first[-1] < 0.8 * first[0]
    assert losses(stop=None) == first
    assert losses(stop=2) == first


def test_videos_in_a_file_are_those_in_memory_and_leave_nothing(bank: Bank, tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    in_file = render_bank(
        20, seed=SMALL.seed, side=SMALL.render_size, device=CPU, folder=tmp_path, report=lambda *at: progress.append(at)
    )
    assert not [*tmp_path.iterdir()], "not even of a process that is killed"
    torch.testing.assert_close(in_file.frames[:16], bank.frames, rtol=0, atol=0)
    assert progress == [(16, 20), (20, 20)]


def test_a_disk_without_room_is_named_before_anything_is_rendered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    assert main(["make-encoder", "--out", str(tmp_path / "made"), "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert "--videos 24000: 24,000 videos of 112 px need 28.9 GB of the disk below" in said
    assert "(No space left on device); make room, or take fewer" in said
    assert not [*(tmp_path / "made").iterdir()]


def test_the_command_writes_an_encoder_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "made"
    flags = ["--videos", "8", "--render-size", "32", "--frames", "8", "--crop-size", "32", "--epochs", "1"]
    assert main(["make-encoder", "--out", str(out), *flags, "--batch-size", "4", "--device", "cpu"]) == 0
    assert "epoch 1/1" in capsys.readouterr().out
    encoder = fima.load(out)
    assert (encoder.backbone, encoder.transform.frames, encoder.transform.crop_size) == ("small", 8, 32)
    assert encoder.clip_settings().span == pytest.approx(0.85)
    record = json.loads((out / "training.json").read_text(encoding="utf-8"))
    assert record["settings"]["videos"] == 8
    assert record["precision"] in ("bf16", "fp32")
    card = (out / "README.md").read_text(encoding="utf-8")
    assert f"fima make-encoder --out runs/small {' '.join(flags)} --batch-size 4" in card
    assert "$" not in card
    assert main(["make-encoder", "--out", str(out)]) == 2, "never over another one"
    assert "already exists" in capsys.readouterr().err


def test_an_interrupted_command_goes_on_to_the_same_encoder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--videos", "8", "--render-size", "32", "--frames", "8", "--crop-size", "32", "--epochs", "3"]
    flags += ["--batch-size", "4", "--device", "cpu"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(["make-encoder", "--out", str(parts), *flags, "--resume"]) == 2
    assert "no epoch was finished there; start without --resume" in capsys.readouterr().err
    assert main(["make-encoder", "--out", str(whole), *flags]) == 0

    train_epoch = Regression.train_epoch

    def interrupted(training: Regression, bank: Bank) -> object:
        if training.records:
            raise KeyboardInterrupt
        return train_epoch(training, bank)

    with monkeypatch.context() as patch:
        patch.setattr(Regression, "train_epoch", interrupted)
        assert main(["make-encoder", "--out", str(parts), *flags]) == 130
    assert "repeat the command with --resume" in capsys.readouterr().err
    assert main(["make-encoder", "--out", str(parts), *flags]) == 2
    assert "of an interrupted training; --resume goes on there" in capsys.readouterr().err
    assert main(["make-encoder", "--out", str(parts), *flags, "--lr", "0.1", "--resume"]) == 2
    assert f"--lr 0.1: the training in {parts / 'unfinished.pt'} has 0.002" in capsys.readouterr().err
    assert main(["make-encoder", "--out", str(parts), *flags, "--resume"]) == 0
    assert "epoch 1/3" not in capsys.readouterr().out
    assert {file.name for file in parts.iterdir()} == {file.name for file in whole.iterdir()}
    assert (parts / WEIGHTS_FILE).read_bytes() == (whole / WEIGHTS_FILE).read_bytes()
    epochs = json.loads((parts / "training.json").read_text(encoding="utf-8"))["epochs"]
    assert [epoch["epoch"] for epoch in epochs] == [1, 2, 3]


def test_a_file_of_something_else_is_no_interrupted_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"weights": torch.zeros(1)}, tmp_path / "unfinished.pt")
    assert main(["make-encoder", "--out", str(tmp_path), "--videos", "8", "--batch-size", "4", "--resume"]) == 2
    assert "not of `fima make-encoder`" in capsys.readouterr().err
    (tmp_path / "unfinished.pt").write_bytes((tmp_path / "unfinished.pt").read_bytes()[:200])
    assert main(["make-encoder", "--out", str(tmp_path), "--videos", "8", "--batch-size", "4", "--resume"]) == 2
    assert (
        "truncated (copied or downloaded in part?); copy it again or use another one; or remove it, and start again"
        in (capsys.readouterr().err)
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--videos", "1"], "--videos 1: must be at least 2"),
        (["--render-size", "30"], "--render-size 30: must be a multiple of 8"),
        (["--videos", "8", "--batch-size", "16"], "--batch-size 16: must be at most --videos (8)"),
    ],
)
def test_wrong_settings_are_refused(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["make-encoder", "--out", str(tmp_path / "none"), *flags]) == 2
    assert message in capsys.readouterr().err


def test_the_shipped_encoder_is_small_and_known_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert (ENCODERS / "small" / WEIGHTS_FILE).stat().st_size <= MOST_BYTES
    assert (ENCODERS / "small" / "README.md").is_file()
    encoder = fima.load("small")
    assert (encoder.backbone, encoder.transform.frames, encoder.transform.crop_size) == ("small", 16, 80)
    assert encoder.num_features == 192
    assert encoder.clip_settings().span == pytest.approx(0.85)


def test_the_shipped_encoder_sees_motion_alone() -> None:
    encoder = fima.load("small")
    generator = torch.Generator().manual_seed(0)
    moving = torch.randint(0, 256, (2, 3, 16, 80, 80), generator=generator, dtype=torch.uint8)
    still = moving[:, :, :1].expand_as(moving)
    vectors = encoder.vectors(torch.cat([still, moving]))
    torch.testing.assert_close(vectors[0], vectors[1], rtol=0, atol=1e-6)
    assert (vectors[2] - vectors[0]).norm() > 0.1 * vectors[0].norm()
