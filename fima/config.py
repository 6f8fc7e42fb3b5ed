"""Every setting of a pre-training run and of a fine-tuning run, with the paper's values as defaults."""

from dataclasses import dataclass, field
from typing import Literal

from fima.errors import ConfigError

Dataset = Literal["auto", "ucf101", "hmdb51", "k400", "diving48", "ssv2", "folder", "table"]
"""Layouts of data sets; `auto` recognises which one lies in a folder."""


def _require(condition: bool, flag: str, value: object, rule: str) -> None:
    if not condition:
        raise ConfigError(f"--{flag} {value}: {rule}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The encoder and the projection head."""

    backbone: str = "i3d"
    """The network that is pre-trained: i3d, r2plus1d_18, r3d_18, mc3_18, s3d, swin3d_t, swin3d_s, swin3d_b, mvit_v2_s;
    one of another package (docs/extend.md); `small` (1 M parameters), for CPUs and a few hundred videos; `tiny`, for
    tests."""
    init_from: str | None = None
    """Encoder whose weights a new run starts from: a run, a file of any program that `fima evaluate` reads, or the name
    of an encoder that comes with the package. Heads, queues and optimiser start anew; `--resume` is another thing."""
    projector_hidden: int = 1024
    """Hidden channels of the projector."""
    embedding_dim: int = 128
    """Size D of the embeddings that the losses compare."""
    split_bn: int = 1
    """Groups into which a device splits its batch at random for the key encoder, each with its own batch-norm
    statistics, as if each were on its own device; see docs/reliability.md."""
    decoder_dim: int = 512
    """Width of the motion decoder and of its feed-forward layers."""
    decoder_heads: int = 4
    """Attention heads of the motion decoder."""
    decoder_layers: int = 2
    """Layers of the motion decoder."""
    decoder_dropout: float = 0.1
    """Dropout in the motion decoder."""
    recompute: bool = False
    """Compute the query encoder's activations again backward: less memory, more time (docs/performance.md)."""
    compile: bool = False
    """Compile the encoders with `torch.compile`; needs a C++ compiler (docs/performance.md)."""

    def __post_init__(self) -> None:
        for name in ("projector_hidden", "embedding_dim", "split_bn", "decoder_dim", "decoder_heads", "decoder_layers"):
            _require(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "must be at least 1")
        _require(0 <= self.decoder_dropout < 1, "model.decoder_dropout", self.decoder_dropout, "must be in [0, 1)")
        _require(
            self.decoder_dim % (2 * self.decoder_heads) == 0,
            "model.decoder_dim",
            self.decoder_dim,
            f"must be a multiple of twice --model.decoder_heads ({self.decoder_heads})",
        )


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """The losses and what feeds them."""

    name: str = "fima"
    """`fima`; `moco`: the instance loss alone, on the same clips; or one of another package (docs/extend.md)."""
    temperature: float = 0.1
    """Temperature of the instance loss and of the frame-level motion loss."""
    cell_temperature: float = 0.1
    """Temperature of the pixel-level (cell) motion loss."""
    key_momentum: float = 0.999
    """Momentum m of the key encoder's moving average."""
    queue_size: int | None = None
    """Keys in the RGB queue and in the motion queue. None: the paper's 65,536 for 200,000 videos or more, else the
    paper's share for UCF101 (2,240 of 9,537 videos) of the training videos."""
    cell_queue_size: int | None = None
    """Cells in the dense queue. None: the paper's 31,360 for 200,000 videos or more, else 0 (no dense queue)."""
    instance_weight: float = 1.0
    """Weight of the instance loss; 0 switches it off."""
    frame_weight: float = 1.0
    """Weight of the frame-level motion loss; 0 switches it off."""
    cell_weight: float = 1.0
    """Weight of the pixel-level (cell) motion loss; 0 switches it off."""
    decoder: bool = True
    """The cross-attention motion decoder; without it the query's own cells and slices predict the motion."""
    foreground: bool = True
    """Foreground sampling; without it every cell counts as foreground."""
    local_stride: int = 1
    """Encode every n-th frame of the early and late differences; 2 halves their cost."""
    pos_ratio: float = 0.7
    """Cells closer than this share of the larger cell diagonal are positives."""

    def __post_init__(self) -> None:
        for name in ("temperature", "cell_temperature", "pos_ratio"):
            _require(getattr(self, name) > 0, f"method.{name}", getattr(self, name), "must be greater than 0")
        _require(0 <= self.key_momentum <= 1, "method.key_momentum", self.key_momentum, "must be in [0, 1]")
        for name in ("instance_weight", "frame_weight", "cell_weight"):
            _require(getattr(self, name) >= 0, f"method.{name}", getattr(self, name), "must be 0 or more")
        _require(self.local_stride >= 1, "method.local_stride", self.local_stride, "must be at least 1")
        _require(self.queue_size is None or self.queue_size >= 1, "method.queue_size", self.queue_size, "must be 1+")
        _require(
            self.cell_queue_size is None or self.cell_queue_size >= 0,
            "method.cell_queue_size",
            self.cell_queue_size,
            "must be 0 or more",
        )
        motion = self.frame_weight + self.cell_weight if self.name == "fima" else 0.0
        _require(self.instance_weight + motion > 0, "method.instance_weight", self.instance_weight, "every loss is off")

    @property
    def instance_loss(self) -> bool:
        """Whether the instance loss is part of the run."""
        return self.instance_weight > 0

    @property
    def frame_loss(self) -> bool:
        """Whether the frame-level motion loss is part of the run."""
        return self.name == "fima" and self.frame_weight > 0

    @property
    def cell_loss(self) -> bool:
        """Whether the pixel-level motion loss is part of the run."""
        return self.name == "fima" and self.cell_weight > 0


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """From video files to batches of views."""

    dataset: Dataset = "auto"
    """Layout of the data; `auto` detects it."""
    split: int = 1
    """Number of the official split, if a data set has several."""
    annotations: str | None = None
    """List file or folder of list files, if they are not with the videos."""
    exclude: str | None = None
    """List of videos to pass over, such as `fima doctor --quarantine` writes."""
    part: Literal["train", "all"] = "train"
    """`all` trains on every video, those of the test split and those held out for it among them."""
    frames: int = 16
    """Frames F per clip; a clip is a window of 2·F source frames. 0, in fine-tuning: as the encoder was trained."""
    stride: float = 2.0
    """Source frames between neighbouring frames of a clip; the paper's is 2."""
    fps: float = 0.0
    """Frames per second of a clip, instead of `stride`, whatever the rates of the videos; 0: by `stride`."""
    frame_rate: float = 0.0
    """Frames per second of videos that do not say theirs, such as folders of pictures; for `fps`. 0: unknown."""
    span: tuple[float, float] | None = None
    """Share of its video that a clip covers, drawn from this range, instead of `stride`; for short, trimmed videos."""
    clip_sampling: Literal["random", "same", "near"] = "random"
    """The two clips of a video: two random windows; the same window twice; a random window and the one right after."""
    step_between_clips: int = 1
    """Windows start at multiples of this many frames."""
    crop_size: int = 224
    """Side of the square views, in pixels. 0, in fine-tuning: as the encoder was trained."""
    min_area: float = 0.2
    """Smallest area of a random crop, as a share of the frame."""
    max_area: float = 1.0
    """Largest area of a random crop, as a share of the frame."""
    flip: float = 0.5
    """Probability that a view is mirrored; 0 where left and right differ in meaning."""
    grayscale: float = 0.2
    """Probability that a view loses its colours."""
    jitter: float = 0.8
    """Probability of colour jitter (brightness, contrast and saturation by up to 0.4, hue by up to 0.1)."""
    blur: float = 0.5
    """Probability of Gaussian blur."""
    workers: int = 4
    """Processes that decode; 0 decodes in the training process."""
    max_skipped_share: float = 0.05
    """The run stops when more than this share of the videos that were tried cannot be decoded."""
    keep_mb: int = 0
    """Decoded videos that each decoding process keeps, in MB: for sets that fit, and devices faster than decoding."""
    timeout_seconds: float = 600.0
    """A video that a process decodes for longer is given up, and the process replaced; 0: it may take any time."""
    max_frame_pixels: int = 2**25
    """Videos with larger frames, in pixels, are skipped; a frame of 8K has 33 million."""
    max_clip_mb: int = 4096
    """Videos whose clips would need more memory, in MB, to be decoded are skipped."""

    def __post_init__(self) -> None:
        for name in ("split", "step_between_clips"):
            _require(getattr(self, name) >= 1, f"data.{name}", getattr(self, name), "must be at least 1")
        _require(self.frames >= 0, "data.frames", self.frames, "must be at least 1")
        _require(self.crop_size >= 8 or self.crop_size == 0, "data.crop_size", self.crop_size, "must be at least 8")
        _require(0 < self.min_area <= self.max_area, "data.min_area", self.min_area, "must be in (0, max_area]")
        _require(self.max_area <= 1, "data.max_area", self.max_area, "must be at most 1")
        self._check_timing()
        for name in ("flip", "grayscale", "jitter", "blur"):
            _require(0 <= getattr(self, name) <= 1, f"data.{name}", getattr(self, name), "must be in [0, 1]")
        for name in ("workers", "keep_mb"):
            _require(getattr(self, name) >= 0, f"data.{name}", getattr(self, name), "must be 0 or more")
        _require(self.timeout_seconds >= 0, "data.timeout_seconds", self.timeout_seconds, "must be 0 or more")
        for name in ("max_frame_pixels", "max_clip_mb"):
            _require(getattr(self, name) >= 1, f"data.{name}", getattr(self, name), "must be at least 1")
        _require(
            0 <= self.max_skipped_share <= 1, "data.max_skipped_share", self.max_skipped_share, "must be in [0, 1]"
        )

    def _check_timing(self) -> None:
        _require(self.stride > 0, "data.stride", self.stride, "must be greater than 0")
        for name in ("fps", "frame_rate"):
            _require(getattr(self, name) >= 0, f"data.{name}", getattr(self, name), "must be 0 or more")
        low, high = self.span or (1.0, 1.0)
        _require(0 < low <= high <= 1, "data.span", self.span, "two shares, the smaller first, in (0, 1]")
        ways = [name for name, given in (("stride", self.stride != 2), ("fps", self.fps), ("span", self.span)) if given]
        _require(len(ways) <= 1, "data." + " and --data.".join(ways), "", "give one of the three")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """SGD and its schedule."""

    epochs: int = 100
    """Passes over the videos."""
    batch_size: int = 64
    """Videos per step, over all devices together."""
    accumulate: int = 1
    """Parts that a device splits its share of a batch into, one after another, to save memory."""
    lr: float = 0.01
    """Learning rate at its highest."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 1e-4
    """Weight decay, on every parameter."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """How the learning rate falls, epoch by epoch."""
    milestones: tuple[int, ...] = ()
    """Epochs at which `step` multiplies the learning rate by `decay`."""
    decay: float = 0.1
    """Factor of the `step` schedule."""
    warmup_epochs: int = 0
    """Epochs of linear warm-up from `warmup_lr`."""
    warmup_lr: float = 0.0
    """Learning rate at which the warm-up starts."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            _require(getattr(self, name) >= 1, f"optim.{name}", getattr(self, name), "must be at least 1")
        for name in ("lr", "momentum", "weight_decay", "warmup_lr", "warmup_epochs"):
            _require(getattr(self, name) >= 0, f"optim.{name}", getattr(self, name), "must be 0 or more")
        _require(
            (self.schedule == "step") == bool(self.milestones),
            "optim.milestones",
            self.milestones,
            "goes with --optim.schedule step, which needs at least one",
        )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The machine, the clock and the records of a run."""

    seed: int = 0
    """Seed of every random choice."""
    deterministic: bool = False
    """Two runs give the same bits on a GPU, too, where its operations allow it; slower there."""
    device: str = "auto"
    """`auto` uses a GPU if there is one; or `cpu`, `cuda`, `cuda:1`, …"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`bf16` runs the networks under autocast; the losses stay in float32. `auto` takes it where the device computes in
    bfloat16 (GPUs since 2020; CPUs with AVX512-BF16 or AMX), else `fp32`."""
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"
    """How tensors lie in memory. `channels_last` is faster, but in float32 on a CPU batch norm then rounds more
    (docs/performance.md). `auto` is `contiguous` in float32 on a CPU, else `channels_last`."""
    checkpoint_epochs: int = 10
    """Keep a numbered checkpoint every n epochs, besides `last.pt` after each."""
    checkpoint_minutes: float = 15.0
    """Also write `last.pt` within an epoch every n minutes; 0: only after each epoch."""
    keep_last: int = 2
    """Number of latest checkpoints to keep: `last.pt`, `last-1.pt` before it, …"""
    health_epochs: int = 5
    """Measure the health of the representation every n epochs; 0 switches it off."""
    health_videos: int = 256
    """Videos that the health check looks at."""
    picture_epochs: int = 5
    """Write crops, activation maps and embeddings to TensorBoard every n epochs; 0 switches it off."""
    log_steps: int = 10
    """Write a line to `metrics.jsonl` every n steps."""
    timeout_minutes: float = 30.0
    """Minutes after which a process gives up waiting for the others."""
    grace_seconds: float = 3.0
    """Seconds after SIGTERM in which the run may finish its step and save; then it ends. 0: as long as it takes."""

    def __post_init__(self) -> None:
        for name in ("checkpoint_epochs", "keep_last", "log_steps", "health_videos"):
            _require(getattr(self, name) >= 1, f"run.{name}", getattr(self, name), "must be at least 1")
        minutes = self.checkpoint_minutes
        _require(minutes >= 0, "run.checkpoint_minutes", minutes, "must be 0 or more")
        _require(self.timeout_minutes > 0, "run.timeout_minutes", self.timeout_minutes, "must be greater than 0")
        for name in ("health_epochs", "picture_epochs", "grace_seconds"):
            _require(getattr(self, name) >= 0, f"run.{name}", getattr(self, name), "must be 0 or more")
        _require(self.seed >= 0, "run.seed", self.seed, "must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """A linear layer on the pooled features of an encoder, and what of the two is trained."""

    backbone: str | None = None
    """The encoder. None: the one that the checkpoint names."""
    num_classes: int | None = None
    """Classes. None: those of the data set."""
    dropout: float = 0.7
    """Dropout before the linear layer; the paper's 0.7 for UCF101, 0.5 for HMDB51. A frozen encoder has none."""
    freeze: bool = False
    """Linear probing: only the linear layer is trained; the encoder is frozen, with its batch norm in eval mode."""
    l2_normalise: bool = False
    """L2-normalise the pooled features."""
    low_shot: int | None = None
    """Train on only this many training videos, drawn evenly from the classes."""
    select: Literal["last", "validation", "test"] = "last"
    """Which epoch is the result: the last one; the best on training videos held out of the training; or the best on the
    TEST split, as in the authors' program, which flatters."""
    held_out_share: float = 0.1
    """Share of each class's training videos that `--classifier.select validation` holds out."""

    def __post_init__(self) -> None:
        for name in ("num_classes", "low_shot"):
            value = getattr(self, name)
            _require(value is None or value >= 2, f"classifier.{name}", value, "must be at least 2")
        _require(0 <= self.dropout < 1, "classifier.dropout", self.dropout, "must be in [0, 1)")
        _require(0 < self.held_out_share < 1, "classifier.held_out_share", self.held_out_share, "must be in (0, 1)")


@dataclass(frozen=True, kw_only=True)
class TestConfig:
    """How a classifier is tested: class scores averaged over several clips and crops of a video."""

    clips: int = 10
    """Clips per video, evenly spread over it."""
    crops: Literal[1, 3] = 1
    """Square crops per clip: the centre, or three along the longer side."""
    ori_resolution: int | None = 256
    """The crop is 0.875 of this many source pixels, as published for videos of that height (the whole short side,
    where it is smaller). None: 0.875 of each video's own short side."""
    every_epochs: int = 10
    """Test the classifier every n epochs, and after the last one."""

    def __post_init__(self) -> None:
        for name in ("clips", "every_epochs"):
            _require(getattr(self, name) >= 1, f"test.{name}", getattr(self, name), "must be at least 1")
        size = self.ori_resolution
        _require(size is None or size >= 8, "test.ori_resolution", size, "must be at least 8")


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """One run that trains a classifier on an encoder: fine-tuning, or linear probing by SGD."""

    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    data: DataConfig = field(default_factory=lambda: DataConfig(frames=0, crop_size=0, blur=0.0))
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(epochs=150, batch_size=16, schedule="step", milestones=(60, 120))
    )
    run: RunConfig = field(default_factory=RunConfig)
    test: TestConfig = field(default_factory=TestConfig)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """One pre-training run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        for name, smallest in (("frames", 1), ("crop_size", 8)):
            value = getattr(self.data, name)
            _require(value >= smallest, f"data.{name}", value, f"must be at least {smallest}")
        share = self.optim.batch_size // self.optim.accumulate
        rule = f"must be at most half the {share} videos of a step, or of a part of it with --optim.accumulate"
        parts, stride = self.model.split_bn, self.method.local_stride
        _require(parts == 1 or 2 * parts <= share, "model.split_bn", parts, rule)
        few = f"must leave two of the {self.data.frames} frames or more"
        _require(stride == 1 or stride < self.data.frames, "method.local_stride", stride, few)
