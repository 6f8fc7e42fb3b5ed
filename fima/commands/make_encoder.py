"""`fima make-encoder`: train the encoder that comes with the package again, on rendered people."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fima.commands.parse import OUT
from fima.commands.progress import progress
from fima.errors import ConfigError
from fima.files.atomic import write_file
from fima.files.output import OutputPath
from fima.train.encoder_settings import SyntheticEncoderSettings

if TYPE_CHECKING:
    from fima.synthetic.people.bank import Bank
    from fima.train.motion_regression import Regression

CARD, RECORD, UNFINISHED = "README.md", "training.json", "unfinished.pt"


@dataclass(frozen=True, kw_only=True)
class MakeEncoderArguments(SyntheticEncoderSettings):
    """Render people whose motions are known, and train the backbone `small` to predict these motions: no video needed.

    The defaults train an encoder such as the one that `fima.load("small")` opens, on a large GPU. On a CPU, rendering
    takes about a tenth of a second per video. For example: `fima make-encoder --out runs/encoder --videos 600`.
    """

    out: Annotated[OutputPath, OUT]
    """Folder to write, for `fima.load`: `model.safetensors` (half precision), its card `README.md`, `training.json`."""
    resume: bool = False
    """Go on after the last epoch that was finished in `--out`, with the same flags."""


def main(arguments: MakeEncoderArguments) -> None:
    """Run the command."""
    import torch

    from fima.checkpoints.checkpoint import versions
    from fima.checkpoints.pretrained import WEIGHTS_FILE
    from fima.synthetic.people.bank import render_bank
    from fima.torch_tools.device import choose_device
    from fima.train.motion_regression import Regression
    from fima.use.synthetic_encoder import write_synthetic_encoder

    weights, unfinished = arguments.out / WEIGHTS_FILE, arguments.out / UNFINISHED
    if weights.exists():
        raise ConfigError(f"{weights}: already exists; choose another --out, or remove it")
    if unfinished.exists() and not arguments.resume:
        raise ConfigError(f"{unfinished}: of an interrupted training; --resume goes on there, or choose another --out")
    if arguments.resume and not unfinished.exists():
        raise ConfigError(f"{arguments.out}: no epoch was finished there; start without --resume")
    device = choose_device(arguments.device)
    training = (
        Regression.read(unfinished, arguments, device) if arguments.resume else Regression.begin(arguments, device)
    )
    begun = time.monotonic()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with torch.no_grad(), progress("rendering", "videos") as report:
        bank = render_bank(
            arguments.videos,
            seed=arguments.seed,
            side=arguments.render_size,
            device=device,
            folder=arguments.out,
            report=report,
        )
    # Rendering on a GPU has only been asked for; this waits for it.
    spread = bank.targets.std().item()
    rendered_seconds = time.monotonic() - begun
    print(
        f"rendered {len(bank):,} videos in {rendered_seconds:.0f} s; deviation of the targets {spread:.2f}", flush=True
    )
    _train(training, bank, unfinished)
    record = {
        "settings": arguments.of_result(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "precision": training.precision,
        "rendered_seconds": rendered_seconds,
        "epochs": [asdict(epoch) for epoch in training.records],
        "versions": versions(),
    }
    write_synthetic_encoder(training.network.encoder.eval(), arguments, weights=weights, card=arguments.out / CARD)
    write_file(arguments.out / RECORD, json.dumps(record, indent=1) + "\n")
    unfinished.unlink()
    print(f"wrote {weights} ({weights.stat().st_size / 2**20:.1f} MiB), {CARD} and {RECORD}")


def _train(training: Regression, bank: Bank, unfinished: Path) -> None:
    """Train the epochs that are left, and keep each in a file."""
    num_epochs = training.settings.epochs
    try:
        while len(training.records) < num_epochs:
            seconds = training.records[-1].seconds if training.records else 0.0
            record = training.train_epoch(bank)
            training.write(unfinished)
            rate = len(bank) / max(record.seconds - seconds, 1e-9)
            done = f"epoch {record.epoch}/{num_epochs}"
            print(f"{done}  loss {record.loss:.4f}  {record.seconds:.0f} s  {rate:.0f} videos/s", flush=True)
    except KeyboardInterrupt:
        if training.records:
            print("the epochs that are finished stay; repeat the command with --resume to go on", file=sys.stderr)
        raise
