"""`--optim`: SGD, AdamW and LARS, their rates and schedules, the frozen encoder and its moving average."""

import dataclasses
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import pytest
import torch
from torch import nn

from fima.checkpoints.checkpoint import Checkpoint, Progress, load_checkpoint, restore
from fima.checkpoints.official_checkpoint import export_official
from fima.checkpoints.pretrained import load_pretrained
from fima.checkpoints.run_folder import RunFolder
from fima.cli import main
from fima.config import OptimConfig, PretrainConfig
from fima.data.datasets import list_videos
from fima.errors import CheckpointError, ConfigError
from fima.method.fima import FIMA
from fima.recipe import config_from_mapping
from fima.torch_tools import distributed
from fima.train import loop
from fima.train.optimizer import build_optimizer, in_words, moving_average, set_rates, warnings_about
from fima.train.pretrain import Pretraining, pretrain
from fima.train.schedule import learning_rate
from kill_resume import combination, compare
from tests.small_runs import SMALL_CONFIG, SMALL_FLAGS, with_settings


class Pair(nn.Module):
    """An encoder and a head, of known weights and gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(3, 2), nn.Linear(2, 4)
        generator = torch.Generator().manual_seed(1)
        for weight in self.parameters():
            weight.data = torch.randn(weight.shape, generator=generator)
            weight.grad = torch.randn(weight.shape, generator=generator)


def moved(optim: OptimConfig) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Each weight before a first step, its gradient, and the weight after it."""
    pair = Pair()
    before = [weight.detach().clone() for weight in pair.parameters()]
    build_optimizer(pair, optim).step()
    gradients = [weight.grad for weight in pair.parameters()]
    return [
        (old, gradient, new.detach())
        for old, gradient, new in zip(before, gradients, pair.parameters(), strict=True)
        if gradient is not None
    ]


class TestSteps:
    def test_sgd_has_one_group_in_the_order_of_the_networks(self) -> None:
        method = FIMA(SMALL_CONFIG.model, SMALL_CONFIG.method)
        (group,) = build_optimizer(method, OptimConfig()).param_groups
        learning = [weight for weight in method.parameters() if weight.requires_grad]
        assert [id(weight) for weight in group["params"]] == [id(weight) for weight in learning]
        assert group["fused"]

    def test_sgd_decays_everything(self) -> None:
        for old, gradient, new in moved(OptimConfig(lr=0.1, weight_decay=0.5)):
            torch.testing.assert_close(new, old - 0.1 * (gradient + 0.5 * old))

    def test_adamw_decays_matrices_apart_from_its_step(self) -> None:
        for old, gradient, new in moved(OptimConfig(name="adamw", lr=0.1, weight_decay=0.5)):
            kept = old * (1 - 0.1 * 0.5) if old.ndim > 1 else old
            torch.testing.assert_close(new, kept - 0.1 * gradient.sign(), rtol=1e-5, atol=1e-6)

    def test_the_momentum_is_the_first_beta_of_adamw(self) -> None:
        (group, _) = build_optimizer(Pair(), OptimConfig(name="adamw", momentum=0.8)).param_groups
        assert group["betas"] == (0.8, 0.999)

    @pytest.mark.parametrize("weight_decay", [0.5, 0.0])
    def test_lars_adapts_matrices_and_nothing_else(self, weight_decay: float) -> None:
        for old, gradient, new in moved(OptimConfig(name="lars", lr=10, weight_decay=weight_decay)):
            trust = 0.001 * old.norm() / (gradient.norm() + weight_decay * old.norm())
            step = trust * (gradient + weight_decay * old) if old.ndim > 1 else gradient
            torch.testing.assert_close(new, old - 10 * step)

    def test_the_encoder_has_a_rate_of_its_own(self) -> None:
        names = [name for name, _ in Pair().named_parameters()]
        steps = moved(OptimConfig(lr=0.1, weight_decay=0, encoder_lr_scale=0.01))
        for name, (old, gradient, new) in zip(names, steps, strict=True):
            rate = 0.001 if name.startswith("encoder") else 0.1
            torch.testing.assert_close(new, old - rate * gradient)

    def test_without_timm_lars_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "timm.optim.lars", None)
        with pytest.raises(ConfigError, match=r"--optim\.name lars needs timm: pip install 'fima-video\[lars\]'"):
            build_optimizer(Pair(), OptimConfig(name="lars"))


class TestSchedules:
    def test_the_rate_follows_the_batch(self) -> None:
        optim = OptimConfig(lr=0.3, batch_size=1024)
        assert learning_rate(optim, 0) == 0.3
        assert learning_rate(dataclasses.replace(optim, lr_scaling="linear"), 0) == pytest.approx(1.2)
        assert learning_rate(dataclasses.replace(optim, lr_scaling="sqrt"), 0) == pytest.approx(0.6)
        scaled = dataclasses.replace(optim, lr_scaling="linear", warmup_epochs=4, warmup_lr=0.2, schedule="constant")
        assert [learning_rate(scaled, epoch) for epoch in (0, 2, 4)] == pytest.approx([0.2, 0.7, 1.2])

    def test_rule_and_value_are_said(self) -> None:
        optim = OptimConfig(lr=0.3, batch_size=64)
        assert "learning rate 0.3 ·" in in_words(optim)
        assert "learning rate 0.075 = 0.3 x 64/256 (linear)" in in_words(
            dataclasses.replace(optim, lr_scaling="linear")
        )
        assert "learning rate 0.15 = 0.3 x sqrt(64/256) (sqrt)" in in_words(
            dataclasses.replace(optim, lr_scaling="sqrt")
        )

    def test_weight_decay_moves_where_there_is_any(self) -> None:
        optim = OptimConfig(name="adamw", lr=0.1, weight_decay=0.04, weight_decay_end=0.4, encoder_lr_scale=0.5)
        optimizer = build_optimizer(Pair(), optim)
        set_rates(optimizer, optim, lr=0.02, done=0.5)
        found = [(len(group["params"]), group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
        assert found == [(1, 0.01, pytest.approx(0.22)), (1, 0.01, 0), (1, 0.02, pytest.approx(0.22)), (1, 0.02, 0)]

    def test_the_keys_follow_more_slowly_towards_the_end(self, videos: Path) -> None:
        config = with_settings("method", key_momentum=0.5, key_momentum_end=1.0)
        momenta: list[float] = []
        listed = list_videos(videos, "train")
        task = Pretraining(config, listed, torch.device("cpu"))
        for done in (0, 0.5, 1):
            task.before_step(done)
            momenta.append(cast(FIMA, task.networks).key_momentum)
        assert momenta == pytest.approx([0.5, 0.75, 1.0])

    @pytest.mark.parametrize(
        ("values", "said"),
        [
            ({"name": "adamw"}, "usual for adamw"),
            ({"name": "lars"}, "usual for lars"),
            ({"freeze_epochs": 3, "epochs": 3}, "never learns"),
            ({"warmup_epochs": 3, "epochs": 3}, "before it reaches its learning rate"),
            ({"schedule": "step", "milestones": (3, 5), "epochs": 3}, "the rate never falls"),
        ],
    )
    def test_what_is_unwise_is_said(self, values: dict[str, Any], said: str) -> None:
        (warning,) = warnings_about(OptimConfig(**values))
        assert said in warning
        assert not warnings_about(OptimConfig(name="adamw", lr=0.001, freeze_epochs=1))


def weights_of(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def runs(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, RunFolder]:
    """A run of one epoch, and one of two that starts from its encoder, frozen for the first."""
    folder = tmp_path_factory.mktemp("frozen")
    first, second = RunFolder(folder / "first"), RunFolder(folder / "second")
    pretrain(with_settings("optim", epochs=1), data=videos, out=first.root)
    config = with_settings("optim", freeze_epochs=1, accumulate=2, weight_decay=0.1)
    config = with_settings("run", with_settings("model", config, init_from=str(first.root)), checkpoint_epochs=1)
    pretrain(config, data=videos, out=second.root)
    return first, second


class TestFrozenEncoder:
    def test_weights_and_batch_norm_stay_and_the_heads_learn(self, runs: tuple[RunFolder, RunFolder]) -> None:
        start = weights_of(load_checkpoint(runs[0].last).model, "query_encoder.")
        frozen = load_checkpoint(runs[1].numbered(1)).model
        assert any("running_mean" in name for name in start)
        assert same(weights_of(frozen, "query_encoder."), start)
        assert same(weights_of(frozen, "key_encoder."), start)
        later = load_checkpoint(runs[1].numbered(2)).model
        assert not torch.equal(later["projector.layers.0.weight"], frozen["projector.layers.0.weight"])
        moved = weights_of(later, "query_encoder.")
        assert all(not torch.equal(moved[name], value) for name, value in start.items() if "layers.1.weight" in name)
        assert not torch.equal(moved["layers.2.running_mean"], start["layers.2.running_mean"])

    def test_several_devices_are_told_which_weights_have_a_gradient(
        self, runs: tuple[RunFolder, RunFolder], videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told = []

        def wrapped(networks: FIMA) -> FIMA:
            told.append({weight.requires_grad for weight in networks.query_encoder.parameters()})
            return networks

        monkeypatch.setattr(distributed, "data_parallel", wrapped)
        config = with_settings("optim", freeze_epochs=1)
        config = with_settings("run", config, health_epochs=0, picture_epochs=0)
        pretrain(with_settings("model", config, init_from=str(runs[0].root)), data=videos, out=tmp_path / "run")
        # Before the first epoch, frozen, and free again.
        assert told == [{True}, {False}, {True}]

    def test_random_weights_are_not_frozen(self, videos: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"--optim\.freeze-epochs 1: .*random weights; give --model\.init-from"):
            pretrain(with_settings("optim", freeze_epochs=1), data=videos, out=tmp_path / "run")
        assert not (tmp_path / "run").exists()


class TestMovingAverage:
    def test_it_is_an_exponential_average_of_weights_and_statistics(self) -> None:
        norm = nn.BatchNorm1d(1)
        average = moving_average(norm, 0.75)
        for value in (4.0, 8.0, 0.0):
            with torch.no_grad():
                norm.weight.fill_(value)
                norm.running_mean = torch.tensor([value])
            average.update_parameters(norm)
        # 4, then 0.75 * 4 + 0.25 * 8 = 5, then 0.75 * 5
        state = average.module.state_dict()
        assert state["weight"].item() == state["running_mean"].item() == 3.75

    def test_a_run_writes_it_as_an_encoder_that_every_command_reads(self, videos: Path, tmp_path: Path) -> None:
        run = RunFolder(tmp_path / "run")
        pretrain(with_settings("optim", ema_decay=0.5), data=videos, out=run.root)
        checkpoint, loaded = load_checkpoint(run.last), load_pretrained(run.ema, device=torch.device("cpu"))
        assert same(loaded.encoder.state_dict(), weights_of(checkpoint.ema, "module."))
        assert not same(loaded.encoder.state_dict(), weights_of(checkpoint.model, "query_encoder."))
        assert (loaded.description, loaded.config) == ("fima tiny, 2 epochs", checkpoint.config)
        assert main(["embed", str(run.ema), str(videos), "-o", str(tmp_path / "vectors.npz"), "--device", "cpu"]) == 0

    def test_fine_tuning_has_none(self, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        words = ["finetune", "scratch", str(videos), "--out", str(tmp_path / "run"), "--classifier.backbone", "tiny"]
        for flags, said in (
            (["--optim.ema-decay", "0.9"], "setting of pre-training"),
            (["--optim.freeze-epochs", "1"], "random weights; give an encoder that is trained"),
            (["--optim.freeze-epochs", "1", "--classifier.freeze"], "does nothing with --classifier.freeze"),
        ):
            assert main([*words, *flags]) == 2
            assert said in capsys.readouterr().err


def step_down(method: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """A step with gradients that differ from weight to weight."""
    torch.manual_seed(1)
    for weight in method.parameters():
        if weight.requires_grad:
            weight.grad = torch.empty_like(weight).copy_(torch.randn(weight.shape))
    optimizer.step()


def checkpoint_of(config: PretrainConfig, method: nn.Module, optimizer: torch.optim.Optimizer) -> Checkpoint:
    state: dict[str, Any] = {"model": method.state_dict(), "optimizer": optimizer.state_dict()}
    return Checkpoint(config=config, progress=Progress(), data={}, versions={}, **state)


class TestResume:
    @pytest.mark.parametrize("seed", [2, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (6, 11))])
    def test_a_killed_run_with_random_settings_ends_as_one_that_is_not(
        self,
        seed: int,
        videos: Path,
        runs: tuple[RunFolder, RunFolder],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        # Of so few videos none can be held out; `benchmarks/kill_resume.py` does that.
        settings = combination(random.Random(seed), runs[0].root).replace("--data.held-out-share 0.3", "")
        whole, killed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed")
        often = ["--run.checkpoint-minutes", "0.000001", "--run.checkpoint-epochs", "1"]
        words = ["pretrain", str(videos), *SMALL_FLAGS, *often, *settings.split(), "--out"]
        assert main([*words, str(whole.root)]) == 0
        for step in (1, 3):
            with monkeypatch.context() as patch:
                patch.setattr(loop, "set_rates", killed_at(step))
                with pytest.raises(SystemError, match="killed"):
                    main([*words, str(killed.root), "--auto-resume"])
        assert main([*words, str(killed.root), "--auto-resume"]) == 0
        assert compare(killed, whole) == []

    @pytest.mark.parametrize("name", ["sgd", "adamw"])
    def test_momenta_stay_those_of_their_weights_where_the_memory_format_changes(
        self, name: Literal["sgd", "adamw"]
    ) -> None:
        """PyTorch's fused optimisers take weights and momenta as they lie in memory, whatever their strides say."""
        config = with_settings("optim", name=name, lr=0.01)
        steps = []
        for second_format in (torch.contiguous_format, torch.channels_last_3d):
            torch.manual_seed(0)
            first = FIMA(config.model, config.method)
            optimizer = build_optimizer(first, config.optim)
            step_down(first, optimizer)
            saved = checkpoint_of(config, first, optimizer)
            second = FIMA(config.model, config.method).to(memory_format=second_format)
            optimizer = build_optimizer(second, config.optim)
            restore(saved, second, optimizer, source=Path("last.pt"))
            step_down(second, optimizer)
            steps.append(torch.cat([weight.detach().flatten() for weight in second.parameters()]))
        torch.testing.assert_close(steps[0], steps[1])

    def test_the_optimiser_of_another_run_must_be_the_same(self, videos: Path, tmp_path: Path) -> None:
        first = RunFolder(tmp_path / "first")
        pretrain(with_settings("optim", epochs=1), data=videos, out=first.root)
        for values, said in (
            ({"name": "adamw"}, "its optimiser is sgd, not adamw; give --optim.name sgd, or .*--model.init-from"),
            ({"encoder_lr_scale": 0.5}, "has groups of .* give --optim.name, encoder-lr-scale and"),
        ):
            with pytest.raises((ConfigError, CheckpointError), match=said):
                pretrain(with_settings("optim", **values), data=videos, out=tmp_path / "next", resume_from=first.last)
        averaged = with_settings("optim", epochs=1, ema_decay=0.9)
        pretrain(averaged, data=videos, out=tmp_path / "averaged")
        config = with_settings("model", with_settings("optim", averaged, epochs=2), backbone="small")
        with pytest.raises(CheckpointError, match=r"last.pt: its weights are not of this model"):
            pretrain(config, data=videos, out=tmp_path / "next", resume_from=RunFolder(tmp_path / "averaged").last)
        checkpoint = load_checkpoint(first.last)
        other = dataclasses.replace(checkpoint, config=with_settings("optim", name="adamw"))
        with pytest.raises(CheckpointError, match=r"adamw.* is not the authors'"):
            export_official(other)


def killed_at(step: int) -> Callable[..., None]:
    """`set_rates`, which ends the run before a step, counted from 0 over the whole run."""

    def rates(optimizer: torch.optim.Optimizer, optim: OptimConfig, lr: float, done: float) -> None:
        if round(done * 2 * optim.epochs) == step:
            raise SystemError("killed")
        set_rates(optimizer, optim, lr, done)

    return rates


def test_a_mistyped_name_is_one_line_with_a_suggestion(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", str(videos), "--out", str(tmp_path / "run"), "--optim.name", "adam"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--optim.name adam: invalid choice; did you mean `adamw`?" in line
    with pytest.raises(ConfigError, match="did you mean `adamw`"):
        config_from_mapping({"optim": {"name": "adam"}}, PretrainConfig, source="r.yaml")
