import math
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from fima.checkpoints.checkpoint import Checkpoint, load_checkpoint
from fima.checkpoints.pretrained import load_pretrained
from fima.checkpoints.run_folder import RunFolder
from fima.config import PretrainConfig
from fima.data.datasets import list_videos
from fima.errors import ConfigError, DataError, TrainingError
from fima.method.inputs import StepLosses
from fima.recipe import read_recipe
from fima.train import pretrain as pretraining
from fima.train.health import Health
from fima.train.pretrain import pretrain
from fima.train.resolve import with_precision
from fima.train.step import step_seed
from tests.gloo import communicated, start_as_one_run
from tests.small_runs import (
    SMALL_CONFIG,
    SMALL_FLAGS,
    assert_same_training,
    make_videos,
    read_lines,
    same_state,
    with_settings,
)
from tests.video_files import truncate

Forward = Callable[..., StepLosses]


def at_step(
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    act: Callable[[StepLosses], StepLosses | None],
    *,
    of: ModuleType = pretraining,
) -> None:
    """Let `act` see, and replace, the losses of the `step`-th forward pass of a kind of training, counted from 1."""
    original, calls = of.forward, [0]

    def forward(*arguments: Any, **options: Any) -> StepLosses:  # noqa: ANN401
        losses = original(*arguments, **options)
        calls[0] += 1
        return (act(losses) or losses) if calls[0] == step else losses

    monkeypatch.setattr(of, "forward", forward)


def raise_signal(number: signal.Signals) -> Callable[[StepLosses], None]:
    return lambda losses: signal.raise_signal(number)


@pytest.mark.parametrize("config", [SMALL_CONFIG, with_settings("method", name="moco")], ids=["fima", "moco"])
def test_two_epochs_leave_a_whole_run(
    config: PretrainConfig, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(tmp_path / "run")
    result = pretrain(config, data=videos, out=run.root)
    assert result.signal_number is None
    assert (result.progress.epoch, result.progress.step) == (2, 4)
    assert read_recipe(run.config) == config
    assert [path.name for path in sorted(run.last.parent.iterdir())] == [
        "best.pt",
        "epoch-002.pt",
        "last-1.pt",
        "last.pt",
    ]
    assert len(list(run.root.glob("events*"))) == 1
    assert not run.skipped.exists()
    steps, epochs = read_lines(run.metrics, "step"), read_lines(run.metrics, "epoch")
    parts = ["instance"] if config.method.name == "moco" else ["instance", "frame", "cell"]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert all(line["loss"] == pytest.approx(sum(line[part] for part in parts), rel=1e-5) for line in steps)
    assert epochs[0]["loss"] == pytest.approx((steps[0]["loss"] + steps[1]["loss"]) / 2)
    assert [line["lr"] for line in epochs] == pytest.approx([0.05, 0.025])
    health = read_lines(run.metrics, "health")
    assert [line["epoch"] for line in health] == [1, 2]
    best = max(health, key=lambda line: line["knn_accuracy"])
    assert [line["best"] for line in health][best["epoch"] - 1]
    assert load_checkpoint(run.best).progress.epoch == best["epoch"]
    assert load_pretrained(run.last, device=torch.device("cpu")).epoch == 2
    assert "epoch 2/2" in capsys.readouterr().out


def test_the_query_network_learns_and_the_key_network_follows(videos: Path, tmp_path: Path) -> None:
    start = load_after(videos, tmp_path / "zero", with_settings("optim", epochs=1, lr=0.0, weight_decay=0.0)).model
    later = load_after(videos, tmp_path / "some", with_settings("optim", epochs=1)).model
    moved = {name for name, value in later.items() if "weight" in name and not torch.equal(value, start[name])}
    assert {name for name in moved if name.startswith("query_encoder")}
    assert {name for name in moved if name.startswith("key_encoder")}


def load_after(videos: Path, out: Path, config: PretrainConfig) -> Checkpoint:
    pretrain(config, data=videos, out=out)
    return load_checkpoint(RunFolder(out).last)


def test_the_same_seed_gives_the_same_run_and_another_seed_another(videos: Path, tmp_path: Path) -> None:
    config = with_settings("optim", epochs=1)
    first, second = (load_after(videos, tmp_path / name, config) for name in "ab")
    other = load_after(videos, tmp_path / "c", with_settings("run", config, seed=1))
    assert_same_training(first, second)
    assert not same_state(first.model, other.model)


@pytest.fixture(scope="module")
def whole(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that nothing has interrupted."""
    run = RunFolder(tmp_path_factory.mktemp("whole") / "run")
    pretrain(SMALL_CONFIG, data=videos, out=run.root)
    return run


@pytest.mark.parametrize(
    ("stop_step", "workers"), [(1, 1), (2, 0), (3, 0)], ids=["inside epoch 1", "end of epoch 1", "inside epoch 2"]
)
def test_resumed_equals_uninterrupted_bit_for_bit(
    stop_step: int, workers: int, whole: RunFolder, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with another number of processes that decode than before."""
    run = RunFolder(tmp_path / "parts")
    with monkeypatch.context() as patch:
        at_step(patch, stop_step, raise_signal(signal.SIGTERM))
        result = pretrain(SMALL_CONFIG, data=videos, out=run.root)
    assert (result.signal_number, result.progress.step) == (signal.SIGTERM, stop_step)
    torch.manual_seed(999)
    resumed = with_settings("data", workers=workers)
    assert pretrain(resumed, data=videos, out=run.root, resume=True).signal_number is None
    assert_same_training(load_checkpoint(run.last), load_checkpoint(whole.last))
    losses = [[line["loss"] for line in read_lines(each.metrics, "step")] for each in (run, whole)]
    assert losses[0] == losses[1]


def test_a_killed_run_goes_on_from_its_last_epoch(
    whole: RunFolder, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "killed")

    def die(losses: StepLosses) -> None:
        raise SystemError("killed")

    for step in (2, 4):  # before the first checkpoint, and after it
        with monkeypatch.context() as patch:
            at_step(patch, step, die)
            with pytest.raises(SystemError):
                pretrain(SMALL_CONFIG, data=videos, out=run.root, resume=step == 4)
    pretrain(SMALL_CONFIG, data=videos, out=run.root, resume=True)
    assert_same_training(load_checkpoint(run.last), load_checkpoint(whole.last))
    assert [line["step"] for line in read_lines(run.metrics, "step")] == [1, 2, 3, 4]


def test_signal_handlers_are_put_back(videos: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    pretrain(with_settings("optim", epochs=1), data=videos, out=tmp_path / "run")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_loss_that_is_not_finite_stops_the_run(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path / "run")

    def break_frame_loss(losses: StepLosses) -> StepLosses:
        return replace(losses, total=losses.total * math.nan, parts={**losses.parts, "frame": torch.tensor(math.nan)})

    at_step(monkeypatch, 3, break_frame_loss)
    with pytest.raises(TrainingError) as caught:
        pretrain(SMALL_CONFIG, data=videos, out=run.root)
    message = str(caught.value)
    assert "step 3 (epoch 2)" in message
    assert "frame nan" in message
    assert str(run.last) in message
    assert message.count(".avi") == 4
    assert load_checkpoint(run.last).progress.epoch == 1
    assert len(read_lines(run.metrics, "stopped")[0]["videos"]) == 4


def test_weights_that_are_not_finite_are_not_saved(videos: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with pytest.raises(TrainingError, match="not finite"):
        pretrain(with_settings("optim", lr=1e38, epochs=1), data=videos, out=run.root)
    assert not run.last.exists()


def test_videos_that_cannot_be_decoded_are_recorded(tmp_path: Path) -> None:
    folder = make_videos(tmp_path / "videos")
    truncate(sorted(folder.rglob("*.avi"))[0], 0.3)
    run = RunFolder(tmp_path / "run")
    result = pretrain(with_settings("data", max_skipped_share=0.5), data=folder, out=run.root)
    skipped = read_lines(run.skipped)
    assert {line["path"] for line in skipped} == {str(folder / "a" / "00.avi")}
    assert {line["epoch"] for line in skipped} == {1, 2}
    assert all(line["reason"] for line in skipped)
    assert result.progress.videos_skipped == len(skipped)


def test_too_many_skipped_videos_stop_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_videos(tmp_path / "videos", num_per_class=10)
    first, *others = [video.path for video in list_videos(folder, "train").videos[:5]]
    first.write_bytes(b"no video")
    run, config = RunFolder(tmp_path / "run"), with_settings("optim", epochs=3)
    assert pretrain(config, data=folder, out=tmp_path / "few").progress.videos_skipped > 0.05 * 3 * 16
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "replaced by another" in line]
    assert str(first) in said
    for path in others:
        path.write_bytes(b"no video")
    with pytest.raises(TrainingError, match=r"^5 videos cannot be decoded, more than --data.max-skipped-share 0.05"):
        pretrain(config, data=folder, out=run.root)
    assert len({line["path"] for line in read_lines(run.skipped)}) == 5
    assert not run.last.exists()  # it was stopped within the first epoch


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_that_can_be_decoded_stops_the_run_in_one_line(workers: int, tmp_path: Path) -> None:
    folder = make_videos(tmp_path / "videos", num_per_class=2)
    for path in folder.rglob("*.avi"):
        path.write_bytes(b"no video")
    with pytest.raises(TrainingError, match="10 videos in a row cannot be decoded") as caught:
        pretrain(with_settings("data", workers=workers), data=folder, out=tmp_path / "run")
    assert "\n" not in str(caught.value)
    # The traceback keeps the loader, and so its process, alive.
    del caught


def test_collapse_is_said_aloud(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    collapsed = Health(
        num_videos=8, embedding_std=1e-5, uniform_std=0.35, effective_rank=1.01, positive_similarity=1.0,
        negative_similarity=1.0, knn_accuracy=None,
    )  # fmt: skip
    monkeypatch.setattr(pretraining, "check_health", lambda *arguments: collapsed)
    monkeypatch.setattr(pretraining, "SETTLED_STEPS", 3)
    pretrain(SMALL_CONFIG, data=videos, out=tmp_path / "run")
    error = capsys.readouterr().err
    assert "COLLAPSED after epoch 1" not in error
    assert "COLLAPSED after epoch 2" in error
    assert [line["collapsed"] for line in read_lines(tmp_path / "run" / "metrics.jsonl", "health")] == [True, True]


def test_unwise_settings_are_warned_of(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = with_settings("method", with_settings("optim", batch_size=9, epochs=1), queue_size=40)
    pretrain(config, data=videos, out=tmp_path / "run")
    warnings = capsys.readouterr().err
    assert "--optim.batch-size 9: more than the 8 videos" in warnings
    assert "--method.queue-size 40: 5 times the 8 videos, so it holds" in warnings
    pretrain(with_settings("method", config, queue_size=39), data=videos, out=tmp_path / "shorter")
    assert "--method.queue-size" not in capsys.readouterr().err


@pytest.mark.parametrize(("part", "said"), [("train", True), ("all", False)])
def test_videos_that_are_left_out_of_class_folders_may_be_trained_on(
    part: str, said: bool, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = with_settings("data", with_settings("optim", epochs=1), part=part)
    pretrain(config, data=videos, out=tmp_path / "run")
    hint = "every 5th video of a class held out for testing; --data.part all trains on these, too)"
    assert (hint in capsys.readouterr().out) == said


def test_queue_sizes_follow_from_the_number_of_videos(videos: Path, tmp_path: Path) -> None:
    config = with_settings("method", with_settings("optim", epochs=1), queue_size=None, cell_queue_size=None)
    pretrain(config, data=videos, out=tmp_path / "run")
    method = read_recipe(tmp_path / "run" / "config.yaml").method
    assert (method.queue_size, method.cell_queue_size) == (2, 0)


class TestFolders:
    """What may be written where, and what may be continued."""

    def test_a_run_is_never_overwritten(self, videos: Path, tmp_path: Path) -> None:
        run = RunFolder(tmp_path / "run")
        saved = load_after(videos, run.root, with_settings("optim", epochs=1))
        before = run.last.read_bytes()
        with pytest.raises(ConfigError, match=r"already holds a run; continue it with --resume"):
            pretrain(SMALL_CONFIG, data=videos, out=run.root)
        result = pretrain(saved.config, data=videos, out=run.root, resume=True)
        assert (result.signal_number, result.progress.epoch) == (None, 1)
        assert run.last.read_bytes() == before

    def test_a_folder_with_other_things_is_left_alone(self, videos: Path, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").touch()
        with pytest.raises(ConfigError, match="not empty"):
            pretrain(SMALL_CONFIG, data=videos, out=tmp_path)
        with pytest.raises(ConfigError, match="is a file"):
            pretrain(SMALL_CONFIG, data=videos, out=tmp_path / "thesis.tex")

    def test_resume_needs_a_run_with_the_same_settings_and_data(self, videos: Path, tmp_path: Path) -> None:
        out = tmp_path / "run"
        with pytest.raises(ConfigError, match="holds no run"):
            pretrain(SMALL_CONFIG, data=videos, out=out, resume=True)
        config = with_settings("optim", epochs=1)
        pretrain(config, data=videos, out=out)
        with pytest.raises(ConfigError, match=r"--optim.lr 0.1: the run in .* has 0.05"):
            pretrain(with_settings("optim", config, lr=0.1), data=videos, out=out, resume=True)
        with pytest.raises(DataError, match=r"4 training videos, but the run .* was started with 8"):
            pretrain(SMALL_CONFIG, data=make_videos(tmp_path / "few", 2), out=out, resume=True)
        longer = pretrain(SMALL_CONFIG, data=videos, out=out, resume=True)
        assert longer.progress.epoch == 2


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "meta"])
def test_devices_that_are_not_there(device: str, videos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"--run.device {device}"):
        pretrain(with_settings("run", device=device), data=videos, out=tmp_path / "run")


def test_step_seeds_differ_by_seed_step_and_process() -> None:
    seeds = {step_seed(seed, step, rank) for seed in range(3) for step in range(20) for rank in range(3)}
    assert len(seeds) == 180
    assert step_seed(1, 2, 3) == step_seed(1, 2, 3)


@pytest.mark.parametrize("has_instructions", [True, False])
def test_automatic_precision_is_what_the_device_computes_in(
    has_instructions: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has_instructions}, raising=False)
    config = with_settings("run", precision="auto")
    chosen = with_precision(config, torch.device("cpu")).run.precision
    assert chosen == ("bf16" if has_instructions else "fp32")
    assert with_precision(SMALL_CONFIG, torch.device("cpu")) is SMALL_CONFIG


def test_bf16_runs_and_its_losses_are_finite(videos: Path, tmp_path: Path) -> None:
    pretrain(
        with_settings("run", with_settings("optim", epochs=1), precision="bf16"), data=videos, out=tmp_path / "run"
    )
    assert all(math.isfinite(line["loss"]) for line in read_lines(tmp_path / "run" / "metrics.jsonl", "step"))


def test_two_processes_are_one_run(videos: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    processes = start_as_one_run(*[["pretrain", videos, "--out", run.root, *SMALL_FLAGS]] * 2)
    (first, _), (second, _) = communicated(processes)
    assert [process.returncode for process in processes] == [0, 0], first + second
    assert "2 x cpu" in first
    assert first.count("epoch 2/2") == 1
    assert "epoch" not in second
    assert [line["step"] for line in read_lines(run.metrics, "step")] == [1, 2, 3, 4]
    assert load_checkpoint(run.last).progress.epoch == 2
