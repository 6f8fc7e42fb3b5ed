import signal
from pathlib import Path

import pytest
import torch

from fima.checkpoints.checkpoint import Progress, load_checkpoint
from fima.checkpoints.run_folder import RunFolder
from fima.cli import main
from fima.config import PretrainConfig, RunConfig
from fima.errors import CollapseError, ConfigError, DataError
from fima.torch_tools import distributed
from fima.train import collapse, loop
from fima.train.health import Health
from fima.train.pretrain import pretrain
from fima.train.task import Training
from fima.visual.report.charts import curve_charts
from fima.visual.report.runs import read_run
from tests.gloo import run_processes
from tests.small_runs import SMALL_FLAGS, assert_same_training, make_videos, read_lines, with_settings
from tests.test_loop import at_step, raise_signal

COLLAPSING_LR, HEALTHY_LR = 30.0, 0.001


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen training videos of two classes: two steps of eight an epoch."""
    return make_videos(tmp_path_factory.mktemp("videos"), num_per_class=10)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four steps in a row instead of twenty."""
    monkeypatch.setattr(collapse, "FEWEST_STEPS", 4)
    monkeypatch.setattr(collapse, "LOOK_STEPS", 2)


def settings(lr: float, epochs: int = 4, **run: object) -> PretrainConfig:
    config = with_settings("optim", with_settings("data", keep_mb=50), lr=lr, epochs=epochs, batch_size=8)
    return with_settings("run", config, picture_epochs=0, health_epochs=100, **run)


def test_the_patience_is_an_epoch_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collapse, "FEWEST_STEPS", 20)
    assert [collapse.patience(steps) for steps in (2, 30, 4000)] == [20, 30, 100]


@pytest.mark.parametrize(("batch_size", "shown"), [(12, [True, False] * 2), (8, [True] * 4), (99, [True] * 2)])
def test_the_rank_of_an_epochs_short_last_step_is_not_recorded(
    batch_size: int, shown: list[bool], videos: Path, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    config = with_settings("optim", settings(1e-3, epochs=2), batch_size=batch_size)
    pretrain(config, data=videos, out=run.root)
    steps = read_lines(run.metrics, "step")
    assert ["effective_rank" in line for line in steps] == shown
    assert all("embedding_std" in line for line in steps)


def test_a_run_that_collapses_is_warned_of_and_goes_on(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(tmp_path / "run")
    assert pretrain(settings(COLLAPSING_LR), data=videos, out=run.root).progress.epoch == 4
    (line,) = read_lines(run.metrics, "collapse")
    assert line["on_collapse"] == "warn"
    assert 4 <= line["step"] <= 8
    looks = [step["effective_rank"] < 2 or step["embedding_std"] < 0.1 * 8**-0.5
             for step in read_lines(run.metrics, "step")]  # fmt: skip
    assert all(looks[line["step"] - 4 : line["step"]])
    assert capsys.readouterr().err.count("THE REPRESENTATION HAS COLLAPSED in epoch") == 1


def test_a_collapse_that_began_in_the_warm_up_is_told_after_it(videos: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    config = with_settings("optim", settings(COLLAPSING_LR, epochs=8), warmup_epochs=5, warmup_lr=COLLAPSING_LR)
    pretrain(config, data=videos, out=run.root)
    (line,) = read_lines(run.metrics, "collapse")
    assert line["step"] == 14, "four steps after the ten of the warm-up"


def test_a_healthy_run_is_not_called_collapsed(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(tmp_path / "run")
    pretrain(settings(HEALTHY_LR), data=videos, out=run.root)
    assert read_lines(run.metrics, "collapse") == []
    assert "COLLAPSED" not in capsys.readouterr().err
    assert min(line["effective_rank"] for line in read_lines(run.metrics, "step")) > 2


def test_a_loss_at_its_floor_is_a_collapse_and_one_that_falls_is_not() -> None:
    class Step:
        query_shape = torch.Size((0, 0))

    def counts(*losses: float) -> list[int]:
        progress, found = Progress(), []
        for loss in losses:
            progress = collapse.counted_collapse(progress, Step(), {"loss": loss}, 0)  # type: ignore[arg-type]
            found.append(progress.collapsed_steps)
        return found

    assert counts(1.6094, 1.6095, 1.6094, 1.7) == [0, 1, 2, 0]
    assert counts(0.02, 0.01, 0.015) == [0, 0, 0]


def test_stop_has_an_exit_code_of_its_own_and_keeps_the_checkpoints(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(tmp_path / "run")
    flags = ["--optim.lr", "30", "--optim.epochs", "4", "--optim.batch-size", "8", "--run.on-collapse", "stop"]
    words = [*SMALL_FLAGS, *flags, "--run.health-epochs", "0", "--run.picture-epochs", "0"]
    assert main(["pretrain", str(videos), "--out", str(run.root), *words]) == 3
    (error,) = [line for line in capsys.readouterr().err.splitlines() if "COLLAPSED" in line]
    assert "stopped, --run.on-collapse stop" in error
    assert str(run.last) in error
    assert load_checkpoint(run.last).progress.step < read_lines(run.metrics, "collapse")[0]["step"]


def test_rollback_lowers_the_rate_is_bounded_and_resumes_exactly(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collapse, "MOST_ROLLBACKS", 1)
    config = settings(COLLAPSING_LR, on_collapse="rollback")
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    with pytest.raises(CollapseError, match="stopped after going back 1 times"):
        pretrain(config, data=videos, out=whole.root)
    (line,) = read_lines(whole.metrics, "rollback")
    assert (line["step"], line["rollbacks"], line["lr_factor"]) == (0, 1, 0.3)
    assert "COLLAPSED" in line["reason"]
    steps = read_lines(whole.metrics, "step")
    assert [step["step"] for step in steps] == list(range(1, len(steps) + 1))
    assert [step["lr"] for step in steps[:2]] == [9.0, 9.0]
    with monkeypatch.context() as patch:
        at_step(patch, line["from_step"] + 3, raise_signal(signal.SIGTERM))
        assert pretrain(config, data=videos, out=parts.root).progress.rollbacks == 1
    with pytest.raises(CollapseError):
        pretrain(config, data=videos, out=parts.root, resume=True)
    assert_same_training(load_checkpoint(parts.last), load_checkpoint(whole.last))
    assert [step["loss"] for step in read_lines(parts.metrics, "step")] == [step["loss"] for step in steps]


def test_a_run_that_begins_at_a_checkpoint_of_another_can_go_back_there(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collapse, "MOST_ROLLBACKS", 1)
    first, run = RunFolder(tmp_path / "first"), RunFolder(tmp_path / "run")
    pretrain(settings(HEALTHY_LR, epochs=1), data=videos, out=first.root)
    config = settings(COLLAPSING_LR, epochs=8, on_collapse="rollback")
    with pytest.raises(CollapseError, match="stopped after going back 1 times"):
        pretrain(config, data=videos, out=run.root, resume_from=first.last)
    (line,) = read_lines(run.metrics, "rollback")
    assert line["step"] == load_checkpoint(first.last).progress.step == 2


def roll_back_in_process(rank: int, videos: Path, out: Path) -> tuple[int, dict[str, torch.Tensor]]:
    """A run that goes back once, to a rate at which it does not collapse; its weights and queues at the end."""
    seen: list[Training] = []

    def roll_back(training: Training, error: collapse.CollapsedError) -> Progress:
        seen.append(training)
        return collapse.roll_back(training, error)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collapse, "FEWEST_STEPS", 2)
        patch.setattr(collapse, "LOOK_STEPS", 2)
        patch.setattr(collapse, "ROLLBACK_FACTOR", HEALTHY_LR / COLLAPSING_LR)
        patch.setattr(loop, "ROLLBACK_FACTOR", HEALTHY_LR / COLLAPSING_LR)
        patch.setattr(loop, "roll_back", roll_back)
        patch.setattr(distributed, "shutdown", lambda: None)
        config = settings(COLLAPSING_LR, epochs=4, on_collapse="rollback")
        progress = pretrain(
            with_settings("optim", config, batch_size=16, schedule="constant"), data=videos, out=out
        ).progress
    networks = seen[0].task.networks
    state = {**dict(networks.named_parameters()), "queue": networks.state_dict()["queue.keys"]}
    return progress.rollbacks, {name: value.detach().clone() for name, value in state.items()}


@pytest.mark.slow
def test_two_processes_go_back_together(videos: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    first, second = run_processes(roll_back_in_process, 2, tmp_path / "gloo", videos, run.root)
    assert (first[0], second[0]) == (1, 1)
    assert all(value.equal(second[1][name]) for name, value in first[1].items())
    (line,) = read_lines(run.metrics, "rollback")
    assert (line["step"], line["from_step"]) == (0, 4)
    steps = read_lines(run.metrics, "step")
    assert [step["step"] for step in steps] == [1, 2, 3, 4]
    assert steps[0]["lr"] == pytest.approx(HEALTHY_LR)


def test_the_best_checkpoint_is_that_of_the_highest_probe_and_the_report_marks_it(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "run")
    config = with_settings("run", settings(HEALTHY_LR, epochs=3, probe=str(videos)), health_epochs=1)
    found = iter((0.5, 0.75, 0.75))
    monkeypatch.setattr("fima.train.pretrain.probe_accuracy", lambda *arguments: next(found))
    pretrain(config, data=videos, out=run.root)
    health = read_lines(run.metrics, "health")
    assert [(line["probe_accuracy"], line["best"]) for line in health] == [(0.5, True), (0.75, True), (0.75, False)]
    assert load_checkpoint(run.best).progress.epoch == 2
    record = read_run(run.root, "run")
    marked = {chart.title: chart for chart in curve_charts([record])}["Probe: kNN accuracy"]
    assert [shape["x0"] for shape in marked.layout["shapes"]] == [health[1]["step"]]
    assert f"mark of run: best at step {health[1]['step']}" in marked.summary


def test_only_what_was_kept_is_to_be_beaten(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first checkpoint cannot be written: a later, weaker one is the best that there is."""
    run = RunFolder(tmp_path / "run")
    config = with_settings("run", settings(HEALTHY_LR, epochs=3, probe=str(videos)), health_epochs=1)
    found, written = iter((0.75, 0.5, 0.6)), iter((False, True, True))
    monkeypatch.setattr("fima.train.pretrain.probe_accuracy", lambda *arguments: next(found))
    write = Training.write_checkpoint

    def fail_at_first(training: Training, progress: Progress, path: Path) -> bool:
        return next(written) if path == run.best else write(training, progress, path)

    monkeypatch.setattr(Training, "write_checkpoint", fail_at_first)
    pretrain(config, data=videos, out=run.root)
    assert [line["best"] for line in read_lines(run.metrics, "health")] == [False, True, True]


def test_a_collapsed_beginning_is_the_best_only_until_there_is_another_and_the_end_names_the_best(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(tmp_path / "run")
    checks = iter([(1.0, 0.75), (5.0, 0.5), (1.0, 0.75), (5.0, 0.25)])

    def check(*arguments: object) -> Health:
        rank, accuracy = next(checks)
        return Health(
            num_videos=16, embedding_std=0.3, uniform_std=8**-0.5, effective_rank=rank,
            positive_similarity=0.9, negative_similarity=0.1, knn_accuracy=accuracy,
        )  # fmt: skip

    monkeypatch.setattr("fima.train.pretrain.check_health", check)
    pretrain(with_settings("run", settings(HEALTHY_LR, epochs=4), health_epochs=1), data=videos, out=run.root)
    assert [line["best"] for line in read_lines(run.metrics, "health")] == [True, True, False, False]
    assert load_checkpoint(run.best).progress.epoch == 2
    said = f"finished: {run.last}; the best was epoch 2 (kNN 50.0%): to use it, give {run.best}"
    assert said in capsys.readouterr().out


def test_a_probe_may_be_given_to_a_run_that_goes_on(videos: Path, tmp_path: Path) -> None:
    config = with_settings("run", settings(HEALTHY_LR, epochs=1), health_epochs=1)
    pretrain(config, data=videos, out=tmp_path / "run")
    longer = with_settings("run", with_settings("optim", config, epochs=2), probe=str(videos))
    pretrain(longer, data=videos, out=tmp_path / "run", resume=True)
    first, second = read_lines(tmp_path / "run" / "metrics.jsonl", "health")
    assert (first["best"], second["best"]) == (True, True)


def test_accuracies_on_other_videos_are_not_to_be_beaten(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run goes on with another probe, on which all accuracies are lower; and then with the first one again."""
    run, other = RunFolder(tmp_path / "run"), make_videos(tmp_path / "other", num_per_class=5)
    found = iter((0.75, 0.5, 0.6))
    monkeypatch.setattr("fima.train.pretrain.probe_accuracy", lambda *arguments: next(found))
    for epochs, probe in enumerate((videos, other, videos), start=1):
        config = with_settings("run", settings(HEALTHY_LR, epochs=epochs, probe=str(probe)), health_epochs=1)
        pretrain(config, data=videos, out=run.root, resume=epochs > 1)
    assert [line["best"] for line in read_lines(run.metrics, "health")] == [True, True, True]
    assert load_checkpoint(run.best).progress.epoch == 3


def test_health_and_the_best_checkpoint_follow_the_videos_held_out(videos: Path, tmp_path: Path) -> None:
    """Half of each class's eight training videos."""
    run = RunFolder(tmp_path / "run")
    config = with_settings("run", settings(HEALTHY_LR, epochs=1), health_epochs=1)
    pretrain(with_settings("data", config, held_out_share=0.5), data=videos, out=run.root)
    (line,) = read_lines(run.metrics, "health")
    assert (line["num_videos"], line["best"]) == (8, True)
    assert [step["step"] for step in read_lines(run.metrics, "step")] == [1]
    saved = load_checkpoint(run.best)
    assert (saved.progress.videos_tried, saved.data["num_videos"]) == (8, 8)
    with pytest.raises(ConfigError, match=r"--data.held-out-share 0.6: the run in .* has 0.5"):
        pretrain(with_settings("data", config, held_out_share=0.6), data=videos, out=run.root, resume=True)
    with pytest.raises(ConfigError, match=r"--data.held-out-share 0.1: holds out 2 of the videos.* 8 or more"):
        pretrain(with_settings("data", config, held_out_share=0.1), data=videos, out=tmp_path / "other")


@pytest.mark.parametrize(
    ("folder", "message"),
    [("flat", "--run.probe .*has no labels"), ("none", "--run.probe .*no such folder"),
     ("one.csv", "--run.probe .*needs two classes")],
)  # fmt: skip
def test_a_probe_without_two_classes_is_refused_before_any_work(
    folder: str, message: str, videos: Path, tmp_path: Path
) -> None:
    for number, video in enumerate(sorted((videos / "a").iterdir())[:5]):
        (tmp_path / "flat").mkdir(exist_ok=True)
        (tmp_path / "flat" / f"{number}.avi").symlink_to(video)
    rows = [f"flat/{number}.avi,wave,{'train' if number else 'test'}" for number in range(5)]
    (tmp_path / "one.csv").write_text("\n".join(["path,label,split", *rows]))
    with pytest.raises(DataError, match=message):
        pretrain(settings(0.01, probe=str(tmp_path / folder)), data=videos, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_settings_that_do_not_go_together_are_refused(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"--run.on-collapse rollback: needs --run.health-epochs"):
        RunConfig(on_collapse="rollback", health_epochs=0)
    assert main(["pretrain", str(videos), "--out", "x", "--run.on-collapse", "rolback"]) == 2
    assert "did you mean `rollback`" in capsys.readouterr().err
    assert main(["finetune", "scratch", str(videos), "--out", "x", "--run.probe", str(videos)]) == 2
    assert "--run.probe" in capsys.readouterr().err
