"""`fima convert`: checkpoints of the authors' program ↔ ours, and encoders alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fima.errors import ConfigError
from fima.files.output import OutputFile


@dataclass(frozen=True, kw_only=True)
class ConvertArguments:
    """Convert a pre-training checkpoint between the authors' program and this one, without loss.

    A file whose name ends in `.safetensors` holds the weights only.
    For example: `fima convert official.pth.tar last.pt`.
    """

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]
    """A checkpoint of either program, or the folder of a run; with `--encoder-only`, any file with an encoder."""
    out: Annotated[tyro.conf.Positional[OutputFile], tyro.conf.arg(metavar="OUT")]
    """The file to write."""
    to: Literal["fima", "official"] = "fima"
    """Whose checkpoint to write."""
    encoder_only: bool = False
    """Write the encoder alone: its weights, architecture, number of epochs, and the settings where they are known."""


def main(arguments: ConvertArguments) -> None:
    """Run the command."""
    out = arguments.out
    if out.exists():
        raise ConfigError(f"{out}: already exists; choose another name, or remove it")
    what = _encoder(arguments) if arguments.encoder_only else _checkpoint(arguments)
    print(f"wrote {out}: {what}")


def _checkpoint(arguments: ConvertArguments) -> str:
    from fima.checkpoints.checkpoint import save_checkpoint
    from fima.checkpoints.convert import fima_to_official
    from fima.checkpoints.official_checkpoint import export_official, load_training_checkpoint
    from fima.checkpoints.pretrained import facts_of, write_safetensors
    from fima.checkpoints.torch_file import write_content

    checkpoint = load_training_checkpoint(arguments.source)
    config, epoch = checkpoint.config, checkpoint.progress.epoch
    if arguments.out.suffix == ".safetensors":
        weights = fima_to_official(checkpoint.model) if arguments.to == "official" else checkpoint.model
        write_safetensors(arguments.out, weights, facts_of(config, method=config.method.name, epoch=epoch))
    elif arguments.to == "official":
        write_content(arguments.out, export_official(checkpoint))
    else:
        save_checkpoint(arguments.out, checkpoint)
    return f"{config.method.name} {config.model.backbone}, {epoch} epochs, {len(checkpoint.model)} tensors"


def _encoder(arguments: ConvertArguments) -> str:
    import torch

    from fima.checkpoints.convert import PREFIX
    from fima.checkpoints.official_checkpoint import ARCHITECTURES
    from fima.checkpoints.pretrained import METADATA_KEY, facts_of, load_pretrained, write_safetensors
    from fima.checkpoints.torch_file import write_content

    loaded = load_pretrained(arguments.source, device=torch.device("cpu"))
    prefix = f"{PREFIX}encoder_q." if arguments.to == "official" else ""
    weights = {prefix + name: value for name, value in loaded.encoder.state_dict().items()}
    known = loaded.config if loaded.knows_settings else None
    facts = facts_of(known, method=loaded.method, epoch=loaded.epoch)
    if arguments.out.suffix == ".safetensors":
        write_safetensors(arguments.out, weights, facts)
    else:
        backbone = loaded.config.model.backbone
        content = {"arch": ARCHITECTURES.get(backbone, backbone), "state_dict": weights, METADATA_KEY: facts}
        write_content(arguments.out, {**content, **({} if loaded.epoch is None else {"epoch": loaded.epoch})})
    return f"the encoder of {loaded.description}, {len(weights)} tensors"
