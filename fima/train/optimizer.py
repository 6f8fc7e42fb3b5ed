"""The optimiser of a run: its groups of weights, their rates, and when the encoder is frozen."""

import functools
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import Parameter
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fima.config import OptimConfig
from fima.config.checks import require
from fima.config.optim import REFERENCE_BATCH
from fima.data.layouts.video_list import counted
from fima.errors import ConfigError
from fima.train.schedule import cosine
from fima.version import pip_install

BETA2 = 0.999
"""Second β of AdamW, PyTorch's own value."""
USUAL_LR = {"adamw": "0.0001 to 0.001", "lars": "0.3 with --optim.lr-scaling linear"}
"""Learning rates that are usual with the optimisers that are not the published one."""


def encoders_of(networks: nn.Module) -> list[nn.Module]:
    """Return the encoders of a method, or that of a classifier: the children `encoder` and `…_encoder`."""
    return [child for name, child in networks.named_children() if name == "encoder" or name.endswith("_encoder")]


def build_optimizer(networks: nn.Module, optim: OptimConfig) -> torch.optim.Optimizer:
    """Return the optimiser of the weights that require a gradient; raises ConfigError where LARS is not installed.

    SGD decays every weight, as published; AdamW and LARS neither biases nor norms (weights of one dimension), which
    LARS does not adapt either. There are as few groups of weights as that, and an encoder with a rate of its own or
    that is frozen at first, need: of one group, PyTorch wants a momentum for every weight or for none.
    """
    in_encoders = {id(weight) for encoder in encoders_of(networks) for weight in encoder.parameters()}
    is_apart = optim.encoder_lr_scale != 1 or optim.freeze_epochs > 0
    groups: dict[tuple[bool, bool], list[Parameter]] = {}
    for weight in networks.parameters():
        if weight.requires_grad:
            decays = optim.name == "sgd" or weight.ndim > 1
            groups.setdefault((is_apart and id(weight) in in_encoders, decays), []).append(weight)
    options = {"betas": (optim.momentum, BETA2)} if optim.name == "adamw" else {"momentum": optim.momentum}
    built = optimizer_class(optim.name)(
        [
            {"params": weights, "lr_scale": optim.encoder_lr_scale if is_encoder else 1.0, "decays": decays}
            for (is_encoder, decays), weights in groups.items()
        ],
        lr=optim.peak_lr,
        **options,
    )
    for group in built.param_groups:
        if "always_adapt" in group:  # LARS, also without weight decay
            group["always_adapt"] = group["decays"]
    set_rates(built, optim, optim.peak_lr, 0.0)
    return built


def optimizer_class(name: str) -> Callable[..., torch.optim.Optimizer]:
    """Return what builds the optimiser of a name. Raises ConfigError where the package that has it is not installed."""
    if name == "lars":
        try:
            from timm.optim.lars import Lars
        except ImportError:
            raise ConfigError(f"--optim.name lars needs timm: {pip_install('lars')}") from None
        return Lars
    return functools.partial({"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[name], fused=True)


def set_rates(optimizer: torch.optim.Optimizer, optim: OptimConfig, lr: float, done: float) -> None:
    """Give every group its learning rate, and the weight decay at the share of the run's steps that are done."""
    weight_decay = cosine(optim.weight_decay, optim.weight_decay_end, done)
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
        group["weight_decay"] = weight_decay if group["decays"] else 0.0


def freeze_encoders(networks: nn.Module, optimizer: torch.optim.Optimizer, *, frozen: bool) -> bool:
    """Stop the gradient of the encoders' weights, or let it through again; others keep what they have.

    Without a gradient the optimiser leaves a weight as it is, weight decay and momentum included. Returns whether
    anything has changed, so that a wrapper for several devices has to be made anew.
    """
    learning = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    in_encoders = [weight for encoder in encoders_of(networks) for weight in encoder.parameters()]
    changed = [weight for weight in in_encoders if id(weight) in learning and weight.requires_grad == frozen]
    for weight in changed:
        weight.requires_grad_(not frozen)
    return bool(changed)


def refuse_frozen_random_weights(optim: OptimConfig, remedy: str) -> None:
    """Raise ConfigError, with the remedy, where an encoder is to be frozen that begins with random weights."""
    rule = f"the encoder would be frozen with random weights; {remedy}"
    require(optim.freeze_epochs == 0, "optim.freeze_epochs", optim.freeze_epochs, rule)


def moving_average(encoder: nn.Module, decay: float) -> AveragedModel:
    """Return a copy that follows an encoder, batch-norm statistics included; its first update copies."""
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(encoder, multi_avg_fn=average, use_buffers=True)


def in_words(optim: OptimConfig) -> str:
    """Return what a run says of its optimiser, with the rule and the value of the learning rate."""
    rate = f"learning rate {optim.peak_lr:g}"
    if optim.lr_scaling != "none":
        share = f"{optim.batch_size}/{REFERENCE_BATCH}"
        rule = share if optim.lr_scaling == "linear" else f"sqrt({share})"
        rate += f" = {optim.lr:g} x {rule} ({optim.lr_scaling})"
    if optim.encoder_lr_scale != 1:
        rate += f", {optim.encoder_lr_scale:g} times that for the encoder"
    end = "" if optim.weight_decay_end is None else f" to {optim.weight_decay_end:g} on a cosine"
    said = [optim.name, rate, f"weight decay {optim.weight_decay:g}{end}"]
    if optim.freeze_epochs:
        said.append(f"encoder frozen for {counted(optim.freeze_epochs, 'epoch')}")
    if optim.ema_decay:
        said.append(f"moving average of the encoder, decay {optim.ema_decay:g}")
    return " · ".join(said)


def warnings_about(optim: OptimConfig) -> list[str]:
    """Return what looks unwise about the optimiser, one sentence each."""
    found = []
    if optim.name in USUAL_LR and optim.lr == OptimConfig().lr:
        usual = f"usual for {optim.name}: {USUAL_LR[optim.name]}"
        found.append(f"--optim.lr {optim.lr}: that of SGD, as published; {usual}")
    within = counted(optim.epochs, "epoch")
    if optim.schedule == "step" and min(optim.milestones, default=optim.epochs) >= optim.epochs:
        found.append(f"--optim.milestones {optim.milestones}: none within {within}, so the rate never falls")
    if optim.warmup_epochs >= optim.epochs:
        what = "the run ends before it reaches its learning rate"
        found.append(f"--optim.warmup-epochs {optim.warmup_epochs}: the run has {within}; {what}")
    if optim.freeze_epochs >= optim.epochs:
        found.append(f"--optim.freeze-epochs {optim.freeze_epochs}: the run has {within}, so the encoder never learns")
    return found
