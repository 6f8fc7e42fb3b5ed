"""What a training step of FIMA and of its cheaper variants costs, compared with one of MoCo.

Steps of all variants are taken in turn, with the recipes' settings and views of noise, and timed in processor time;
figures are medians, as multiples of MoCo's. Beside them stands what the passes of the encoder alone would cost, by
frames, a backward pass counted as two forward ones.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from fima.benchmark.steps import random_batch
from fima.commands.study import Trial
from fima.config import PretrainConfig
from fima.method.fima import FIMA
from fima.recipe import RECIPES, read_recipe
from fima.train.pretrain import pretrain_step
from fima.train.resolve import with_cost, with_precision
from motion_textures import TRIALS
from tables import markdown_table

CPU = torch.device("cpu")
SHOWN = (
    "MoCo, equal epochs",
    "FIMA",
    "FIMA light",
    "FIMA light, all frames",
    "FIMA light, every fourth frame",
    "FIMA without the cell loss",
    "FIMA without the frame loss",
    "FIMA without the decoder",
    "FIMA without foreground sampling",
    "FIMA without the instance loss",
)


def settings(trial: Trial, backbone: str) -> PretrainConfig:
    """The recipe of a row with what the row changes, at another backbone where one is asked for."""
    config = read_recipe(RECIPES / trial.recipe)
    for name, value in trial.settings.items():
        section, _, key = name.partition(".")
        config = replace(config, **{section: replace(getattr(config, section), **{key: value})})
    return replace(config, model=replace(config.model, backbone=backbone))


def steps(trial: Trial, backbone: str) -> tuple[Callable[[], None], Callable[[], float]]:
    """A function that takes a step, and one that counts the forward passes of the encoder which a step is worth."""
    config = with_precision(with_cost(settings(trial, backbone)), CPU)
    config = replace(config, method=replace(config.method, cell_queue_size=0))
    method = FIMA(config.model, config.method).train().to(memory_format=torch.channels_last_3d)
    optimizer = torch.optim.SGD(
        [parameter for parameter in method.parameters() if parameter.requires_grad], lr=1e-4, momentum=0.9, fused=True
    )
    batch = random_batch(config.optim.batch_size, config.data)
    passes = [0.0]

    def count(passes_each: int) -> Callable[..., None]:
        def hook(_: object, inputs: tuple[Tensor], *__: object) -> None:
            passes[0] += passes_each * inputs[0].shape[2] / config.data.frames

        return hook

    method.query_encoder.register_forward_hook(count(3))
    method.key_encoder.register_forward_hook(count(1))

    def step() -> None:
        passes[0] = 0
        optimizer.zero_grad(set_to_none=True)
        pretrain_step(method, config, batch, CPU).read()
        optimizer.step()

    return step, lambda: passes[0]


def main() -> None:
    """Time the variants and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--backbone", default="tiny")
    parser.add_argument("--rows", nargs="+", default=SHOWN, choices=SHOWN, metavar="ROW", help="after MoCo's")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    moco = SHOWN[0]
    shown = list(dict.fromkeys([moco, *arguments.rows]))
    variants = {name: steps(TRIALS[name], arguments.backbone) for name in shown}
    seconds: dict[str, list[float]] = {name: [] for name in shown}
    for round_number in range(arguments.rounds + 1):
        for name, (step, _) in variants.items():
            start = time.process_time()
            step()
            if round_number:
                seconds[name].append(time.process_time() - start)
    passes = {name: count() for name, (_, count) in variants.items()}
    rows = []
    for name in shown:
        ratio = statistics.median(own / base for own, base in zip(seconds[name], seconds[moco], strict=True))
        rows.append([name, f"{passes[name]:.0f}", f"{passes[name] / passes[moco]:.2f}", f"{ratio:.2f}"])
    print(markdown_table([arguments.backbone, "passes", "passes / MoCo's", "step / MoCo's"], rows))


if __name__ == "__main__":
    main()
