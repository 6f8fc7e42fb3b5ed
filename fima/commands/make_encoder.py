"""`fima make-encoder`: train the encoder that comes with the package again, on rendered people."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import Annotated

from fima.commands.parse import OUT
from fima.errors import ConfigError
from fima.files.atomic import write_file
from fima.files.output import OutputPath
from fima.train.encoder_settings import SyntheticEncoderSettings

CARD, RECORD = "README.md", "training.json"


@dataclass(frozen=True, kw_only=True)
class MakeEncoderArguments(SyntheticEncoderSettings):
    """Render people whose motions are known, and train the backbone `small` to predict these motions: no video needed.

    The defaults train an encoder such as the one that `fima.load("small")` opens, on a large GPU. On a CPU, rendering
    takes about a tenth of a second per video and core. For example: `fima make-encoder --out runs/encoder --videos 600`.
    """

    out: Annotated[OutputPath, OUT]
    """Folder to write, for `fima.load`: `model.safetensors` (half precision), its card `README.md`, `training.json`."""


def main(arguments: MakeEncoderArguments) -> None:
    """Run the command."""
    import torch

    from fima.checkpoints.checkpoint import versions
    from fima.checkpoints.pretrained import WEIGHTS_FILE
    from fima.data.layouts.video_list import counted
    from fima.synthetic.people.bank import render_bank
    from fima.torch_tools.device import choose_device
    from fima.train.motion_regression import EpochRecord, train_on_people
    from fima.use.synthetic_encoder import write_synthetic_encoder

    weights = arguments.out / WEIGHTS_FILE
    if weights.exists():
        raise ConfigError(f"{weights}: already exists; choose another --out, or remove it")
    device = choose_device(arguments.device)
    begun = time.monotonic()
    with torch.no_grad():
        bank = render_bank(arguments.videos, seed=arguments.seed, side=arguments.render_size, device=device)
    # Rendering on a GPU has only been asked for; this waits for it.
    spread = bank.targets.std().item()
    rendered_seconds = time.monotonic() - begun
    print(f"rendered {counted(len(bank), 'video')} in {rendered_seconds:.0f} s; deviation of the targets {spread:.2f}")

    def report(record: EpochRecord) -> None:
        rate = record.epoch * arguments.videos / max(record.seconds, 1e-9)
        done = f"epoch {record.epoch}/{arguments.epochs}"
        print(f"{done}  loss {record.loss:.4f}  {record.seconds:.0f} s  {rate:.0f} videos/s", flush=True)

    encoder, epochs = train_on_people(bank, arguments, report=report)
    settings = {name: value for name, value in asdict(arguments).items() if name not in ("out", "device")}
    record = {
        "settings": settings,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "rendered_seconds": rendered_seconds,
        "epochs": [asdict(epoch) for epoch in epochs],
        "versions": versions(),
    }
    write_synthetic_encoder(encoder, arguments, weights=weights, card=arguments.out / CARD)
    write_file(arguments.out / RECORD, json.dumps(record, indent=1) + "\n")
    print(f"wrote {weights} ({weights.stat().st_size / 2**20:.1f} MiB), {CARD} and {RECORD}")
