"""Pre-training: the method's networks, trained on unlabelled videos; health of the representation between epochs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fima.checkpoints.checkpoint import Checkpoint, Progress, RunState
from fima.checkpoints.pretrained import encoder_file, facts_of, write_safetensors
from fima.checkpoints.run_folder import RunFolder
from fima.checkpoints.warm_start import WarmStart, read_warm_start
from fima.config import PretrainConfig
from fima.data.augment import make_inputs
from fima.data.datasets import VideoList
from fima.data.layouts.video_list import counted
from fima.data.loader import PretrainBatch, build_pretrain_loader
from fima.data.training_sets import TrainingSet
from fima.errors import ConfigError
from fima.evaluate.protocols import SplitLists
from fima.library.clip_fit import with_timing_checked
from fima.library.windows import videos_of_epoch
from fima.method.base import Method
from fima.method.inputs import StepLosses
from fima.method.networks import MomentumNetworks
from fima.method.registry import method_builder
from fima.torch_tools import distributed
from fima.torch_tools.device import choose_device
from fima.torch_tools.precision import autocast, lay_out, memory_format
from fima.train.collapse import respond
from fima.train.failures import errors_in_one_line
from fima.train.health import Health, check_health, health_by_set, require_enough_for_health
from fima.train.loop import seed_networks, train
from fima.train.meters import sums_by_set
from fima.train.optimizer import encoders_of, moving_average, optimizer_class, refuse_frozen_random_weights
from fima.train.probe import list_probe, probe_accuracy
from fima.train.resolve import layout_in_words, warnings_about, with_cost, with_precision, with_queue_sizes
from fima.train.resume import Start, as_begun, fingerprint, last_checkpoint, origin_record, recorded_origin, start_from
from fima.train.schedule import cosine
from fima.train.step import Measured, forward_backward
from fima.train.task import Task, Training, TrainingResult

SETTLED_STEPS = 100


def pretrain(
    config: PretrainConfig,
    *,
    data: Path | Sequence[TrainingSet],
    out: Path,
    checkpoints: Path | None = None,
    resume: bool = False,
    resume_from: Path | None = None,
    start_epoch: int | None = None,
) -> TrainingResult:
    """Pre-train an encoder, and return how the run ended.

    `data` is a folder of videos, or several sets; labels are not used but for the kNN accuracy of the health check.
    `out` is the folder of the run: new, unless `resume` continues it from its last checkpoint. A new run may begin from
    a checkpoint of another one, or of the authors' program, and at `start_epoch` of its schedule.

    Raises UserError for settings, data or a folder that the caller can put right; TrainingError where the run had to
    stop, with its last good checkpoint in place.
    """
    method_builder(config.method)
    device = choose_device(config.run.device, flag="run.device")
    device = distributed.init_from_environment(device, config.run.timeout_minutes)
    run = RunFolder(out, checkpoints)
    with errors_in_one_line(run):
        optimizer_class(config.optim.name)
        run.require(resume=resume)
        config = as_begun(config, run) if resume else config
        probe = None if config.run.probe is None else list_probe(Path(config.run.probe))
        resume_from = None if resume_from is None else encoder_file(resume_from)
        warm = None if resume else warm_start(config, resume_from)
        sets = [TrainingSet(root=data)] if isinstance(data, Path) else data
        videos = videos_of_epoch(sets, config.data, config.run.seed)
        require_enough_for_health(videos.held_out, config)
        config = with_precision(with_queue_sizes(with_cost(config), videos.epoch.num_samples), device)
        start = Start[Checkpoint]()
        if resume:
            start = last_checkpoint(config, run, Checkpoint, videos)
            resume_from, start_epoch = recorded_origin(run)
        else:
            videos = with_timing_checked(videos, config.data)
        if start.saved is None:
            start = start_from(resume_from, config, videos.epoch.num_samples, epoch=start_epoch)
            warm = warm_start(config, resume_from) if resume else warm
        task = Pretraining(config, videos, device, warm=warm, probe=probe)
        task.facts = origin_record(resume_from, start_epoch)
        return train(task, run, device, start, resume=resume)


class Pretraining(Task[PretrainBatch]):
    """Self-supervised training of an encoder by a method, by resolved settings.

    `warm` are the weights that the encoders begin with (None: random ones, or those of a checkpoint that is put back
    later); `probe` are labelled videos that choose the best checkpoint, instead of the health check's own.
    """

    config: PretrainConfig
    networks: Method

    def __init__(
        self,
        config: PretrainConfig,
        videos: VideoList,
        device: torch.device,
        *,
        warm: WarmStart | None = None,
        probe: SplitLists | None = None,
    ) -> None:
        self.config, self.videos, self.probe = config, videos, probe
        self.health_videos = videos.held_out or videos
        self.by_set = partial(sums_by_set, videos.epoch) if len(videos.epoch.ends) > 1 else None
        seed_networks(config, device)
        self.networks = method_builder(config.method)(config.model)
        self.warm = warm
        if warm is not None:
            start_encoders_from(warm, self.networks)
        if config.method.key_momentum_end is not None and not isinstance(self.networks, MomentumNetworks):
            raise ConfigError(f"--method.key-momentum-end: {config.method.name} has no key encoder; leave it out")
        lay_out(self.networks.to(device), memory_format(config.run.memory_format, config.run.precision, device))
        if config.model.compile:
            for encoder in encoders_of(self.networks):
                encoder.compile()
        decay = config.optim.ema_decay
        self.ema = moving_average(self.networks.query_encoder, decay) if decay else None
        self.loader = build_pretrain_loader(
            videos,
            config.data,
            batch_size=config.optim.batch_size,
            seed=config.run.seed,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            frame_views=not {"early_difference", "late_difference"}.isdisjoint(self.networks.views),
        )

    def step(self, model: nn.Module, batch: PretrainBatch, device: torch.device) -> Measured:
        """Forward and backward; see `pretrain_step`."""
        return pretrain_step(model, self.config, batch, device, by_set=self.by_set)

    def before_step(self, done: float) -> None:
        """Set the momentum of the key networks, where it changes."""
        method = self.config.method
        if method.key_momentum_end is not None and isinstance(self.networks, MomentumNetworks):
            self.networks.key_momentum = cosine(method.key_momentum, method.key_momentum_end, done)

    def after_step(self) -> None:
        """Move the average of the encoder, where there is one."""
        if self.ema is not None:
            self.ema.update_parameters(self.networks.query_encoder)

    def introduction(self) -> list[str]:
        """Return the networks, and the videos."""
        config, videos = self.config, self.videos
        num_weights = sum(weight.numel() for weight in self.networks.parameters() if weight.requires_grad)
        windows = "" if videos.epoch.is_plain else f" · {counted(videos.epoch.num_samples, 'sample')} an epoch"
        return [
            f"{config.method.name} · {config.model.backbone} · {num_weights / 1e6:.1f} M weights that learn",
            *([] if self.warm is None else self.warm.lines()),
            f"{counted(len(videos.videos), 'video')} ({layout_in_words(videos)}){windows} · "
            f"{counted(len(self.loader), 'step')} an epoch",
        ]

    def warnings(self) -> list[str]:
        """Return what is odd about the videos, the batch and the queue."""
        return warnings_about(self.config, self.videos)

    def checkpoint(self, **state: Any) -> Checkpoint:  # noqa: ANN401
        """Return a checkpoint of `fima pretrain`."""
        return Checkpoint(config=self.config, ema={} if self.ema is None else self.ema.state_dict(), **state)

    def restore_average(self, saved: RunState) -> None:
        """Go on with the average of a checkpoint, where the run keeps one and the checkpoint has it."""
        if self.ema is not None and isinstance(saved, Checkpoint) and saved.ema:
            self.ema.load_state_dict(saved.ema)

    def write_beside(self, run: RunFolder, progress: Progress) -> None:
        """Write the average of the encoder as a file that every command reads."""
        if self.ema is not None:
            config, weights = self.config, self.ema.module.state_dict()
            write_safetensors(run.ema, weights, facts_of(config, method=config.method.name, epoch=progress.epoch))

    def is_finished(self, run: RunFolder, progress: Progress) -> bool:
        """Return whether the health after the last epoch is recorded."""
        return not self.health_is_due(run, progress)

    def health_is_due(self, run: RunFolder, progress: Progress) -> bool:
        """Return whether the representation is to be measured after these epochs, and is not yet."""
        if not progress.epoch or progress.step_in_epoch or not self.is_due(self.config.run.health_epochs, progress):
            return False
        return not run.has_record("health", progress.epoch)

    def is_due(self, every_epochs: int, progress: Progress) -> bool:
        """Return whether something is to be done after these epochs; 0 is never."""
        last = progress.epoch == self.config.optim.epochs
        return every_epochs > 0 and (last or progress.epoch % every_epochs == 0)

    def measure(self, training: Training, progress: Progress) -> None:
        """Measure the representation where it is due; keep it where it is the best, and act where it has collapsed.

        The first steps do not count as a collapse: there, untrained networks and unsettled batch-norm averages look
        like one.
        """
        run, may_go_back = training.run, self.config.run.on_collapse == "rollback"
        is_first = distributed.is_main() and not run.healthy.exists() and not run.to_resume_from()
        if may_go_back and distributed.any_process(is_first):
            training.write_checkpoint(progress, run.healthy)
        health: Health | None = None
        if distributed.is_main() and self.health_is_due(run, progress):
            health = check_health(self.networks, self.health_videos, self.config, training.device)
            by_set = health_by_set(self.networks, self.health_videos, self.config, training.device)
            if health is None:
                training.log.warn("health not measured: fewer than two videos could be decoded")
            else:
                of_sets = {f"{key}/{name}": value for name, each in by_set.items() for key, value in vars(each).items()}
                training.log.health(health, progress, {**of_sets, **self.rated(training, progress, health)})
                for name, each in by_set.items():
                    training.log.say(f"{name}: {each.line}")
        has_collapsed = health is not None and health.collapsed
        if may_go_back and health is not None and not has_collapsed:
            training.write_checkpoint(progress, run.healthy)
        if distributed.any_process(has_collapsed and progress.step >= SETTLED_STEPS):
            seen = (
                "" if health is None else f"effective rank {health.effective_rank:.2f}, std {health.embedding_std:.5f}"
            )
            respond(training, progress, f"after epoch {progress.epoch}", seen)
        distributed.barrier()

    def rated(self, training: Training, progress: Progress, health: Health) -> dict[str, Any]:
        """What the probe finds, and whether the checkpoint is the best so far, which is kept as `best.pt` then."""
        run, key, accuracy, found = training.run, "knn_accuracy", health.knn_accuracy, dict[str, Any]()
        if self.probe is not None:
            key, accuracy = "probe_accuracy", probe_accuracy(self.networks, self.probe, self.config, training.device)
            found = {} if accuracy is None else {key: accuracy}
        if accuracy is None or (health.collapsed and progress.step >= SETTLED_STEPS):
            return found
        # The file before the record: a run that is killed between the two measures again, and so writes it again.
        holder = run.best_health()
        # Those of before the run had a probe have no figure of it; those of older versions do not say what chose.
        to_beat = holder.get(key) if holder.get("chosen_by", self.judge) == self.judge else None
        # One that looks collapsed, as the first may, is the best only until there is another.
        bar = not holder.get("collapsed"), to_beat
        is_best = to_beat is None or (not health.collapsed, accuracy) > bar
        return {**found, "chosen_by": self.judge, "best": is_best and training.write_checkpoint(progress, run.best)}

    @property
    def judge(self) -> str:
        """Which videos choose the best checkpoint; accuracies on others are not compared with theirs."""
        if self.probe is None:
            return f"{self.config.run.health_videos} health videos"
        return f"probe {fingerprint(self.probe.train)} {fingerprint(self.probe.test)}"

    def show(self, training: Training, batch: PretrainBatch, progress: Progress) -> None:
        """Show what the networks make of the epoch's last batch."""
        if not distributed.is_main() or not self.is_due(self.config.run.picture_epochs, progress):
            return
        # Its colour maps need matplotlib, which a run without pictures, or with a wrong setting, need not wait for.
        from fima.visual.tensorboard import log_pictures

        folder = training.run.pictures
        try:
            log_pictures(folder, self.networks, batch, progress.step)
        except OSError as error:
            training.log.warn(f"{folder}: no pictures, since they cannot be written ({error.strerror})")
        except torch.cuda.OutOfMemoryError:
            training.log.warn(f"{folder}: no pictures, since the GPU has no memory for them")


def warm_start(config: PretrainConfig, resume_from: Path | None) -> WarmStart | None:
    """Return the weights that the encoders of a new run begin with; None: random ones, or a checkpoint's.

    Raises ConfigError for two places to begin from, and for an encoder that is to be frozen and has none; or as
    `read_warm_start`.
    """
    init_from = config.model.init_from
    if init_from is not None and resume_from is not None:
        raise ConfigError(
            f"--model.init-from {init_from}, --resume-from {resume_from}: the first starts with an encoder alone, the "
            "second with all of a run; give one of them (--model.init-from None, where a recipe gives it)"
        )
    if init_from is not None:
        return read_warm_start(init_from, config.model.backbone)
    if resume_from is None:
        refuse_frozen_random_weights(config.optim, "give --model.init-from")
    return None


def start_encoders_from(warm: WarmStart, networks: nn.Module) -> None:
    """Give the encoders of a method the weights of another encoder; heads and queues stay as they are."""
    for encoder in encoders_of(networks):
        encoder.load_state_dict({**encoder.state_dict(), **warm.weights})


def pretrain_step(
    model: nn.Module,
    config: PretrainConfig,
    batch: PretrainBatch,
    device: torch.device,
    *,
    by_set: Callable[[Tensor, Tensor], Mapping[str, Tensor]] | None = None,
) -> Measured:
    """Leave the gradient of a batch's mean loss in the weights of a method, in `optim.accumulate` parts.

    The key networks move once, before the first part. A part's keys enter the queues when it is done, so later parts
    meet them as negatives; negatives "of the batch" and batch-norm statistics are those of the part. Otherwise as
    `forward_backward`.
    """

    def losses(part: PretrainBatch, is_first: bool) -> StepLosses:
        return forward(model, config, part, update_keys=is_first)

    return forward_backward(losses, model, batch, device, num_parts=config.optim.accumulate, by_set=by_set)


def forward(model: nn.Module, config: PretrainConfig, batch: PretrainBatch, *, update_keys: bool = True) -> StepLosses:
    """Compute the losses of one batch that is on the device, by a method or its wrapper for several devices."""
    method, names = config.method, getattr(getattr(model, "module", model), "views", ())
    clips = [
        make_inputs(views, draws, names, local_stride=method.local_stride)
        for views, draws in ((batch.a, batch.draws_a), (batch.b, batch.draws_b))
    ]
    if method.exclude_same_video:
        clips = [replace(clip, videos=batch.index.to(clip.full.device, non_blocking=True)) for clip in clips]
    with autocast(clips[0].full.device, config.run.precision):
        losses: StepLosses = model(*clips, update_keys=update_keys)
    return losses
