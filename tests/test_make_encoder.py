"""`fima make-encoder`, motion program regression, and the encoder that comes with the package."""

import json
from pathlib import Path

import pytest
import torch

import fima
from fima.checkpoints.pretrained import ENCODERS, WEIGHTS_FILE
from fima.cli import main
from fima.synthetic.people.bank import Bank, render_bank, standardised
from fima.train.encoder_settings import SyntheticEncoderSettings
from fima.train.motion_regression import EpochRecord, rate, regression_loss, train_on_people

MOST_BYTES = 8 * 2**20
SMALL = SyntheticEncoderSettings(
    videos=16, render_size=32, frames=8, crop_size=32, epochs=6, batch_size=8, lr=0.003, device="cpu"
)


@pytest.fixture(scope="module")
def bank() -> Bank:
    return render_bank(SMALL.videos, seed=SMALL.seed, side=SMALL.render_size, device=torch.device("cpu"))


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
        draws = Draws.of(0, 1, step, num_videos=3, device=torch.device("cpu"))
        return bank.clips(index, draws, frames=8, crop_size=24)

    still = Bank(
        frames=bank.frames[:, :1].expand(-1, 32, -1, -1, -1), squares=bank.squares, targets=bank.targets
    ).clips(index, Draws.of(0, 1, 0, num_videos=3, device=torch.device("cpu")), frames=8, crop_size=24)
    assert clips(0).shape == (3, 3, 8, 24, 24)
    assert 0 <= clips(0).min() < clips(0).max() <= 1
    torch.testing.assert_close(clips(0), clips(0), rtol=0, atol=0)
    assert not torch.equal(clips(0), clips(1))
    assert not torch.equal(clips(0)[0], clips(0)[1]), "one video, two crops"
    torch.testing.assert_close(still, still[:, :, :1].expand_as(still), rtol=0, atol=0)


def test_training_lowers_the_loss_and_repeats(bank: Bank) -> None:
    def losses() -> list[float]:
        records: list[EpochRecord] = []
        encoder, _ = train_on_people(bank, SMALL, report=records.append)
        assert not encoder.training
        return [record.loss for record in records]

    first = losses()
    assert len(first) == SMALL.epochs
    assert first[-1] < 0.8 * first[0]
    assert losses() == first


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
    card = (out / "README.md").read_text(encoding="utf-8")
    assert f"fima make-encoder --out runs/small {' '.join(flags)} --batch-size 4" in card
    assert "$" not in card
    assert main(["make-encoder", "--out", str(out)]) == 2, "never over another one"
    assert "already exists" in capsys.readouterr().err


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
