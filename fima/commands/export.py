"""`fima export`: an encoder, or a classifier, for other programs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from fima.commands.parse import OUT
from fima.errors import ConfigError, warn
from fima.files.atomic import write_file
from fima.files.output import check_writable
from fima.recipe import config_to_mapping

if TYPE_CHECKING:
    from fima.use.export.check import Check
    from fima.use.export.formats import Exportable


@dataclass(frozen=True, kw_only=True)
class ExportArguments:
    """Write an encoder for other programs, and check the file against PyTorch on clips of videos.

    The file takes normalised clips in batches of any size. It also describes the preprocessing: ONNX and safetensors in
    their metadata, torch.export in the extra file `fima.json`. A model card is written next to
    it. For example: `fima export runs/mine --format onnx`.
    """

    encoder: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENCODER")]
    """Folder of a run, a checkpoint, weights, or `hf://OWNER/NAME`."""
    format: Literal["safetensors", "torch-export", "onnx"]
    """`safetensors`: weights; `torch-export`: a graph for `torch.export.load`; `onnx`: a graph for ONNX Runtime."""
    out: Annotated[Path | None, OUT] = None
    """The file to write. None: `encoder` (or `classifier`) with the extension of the format, in the current folder."""
    output: Literal["vectors", "logits"] = "vectors"
    """`vectors`, of the encoder; or the `logits` of a checkpoint of `fima finetune`."""
    data: Path | None = None
    """Videos to check the file on. None: synthetic videos."""
    frames: int | None = None
    """Frames per clip that the graph is for. None: as in training."""
    crop_size: int | None = None
    """Side of the clips that the graph is for, in pixels. None: as in training."""
    json: bool = False
    """Print what was done as one JSON object."""


def main(arguments: ExportArguments) -> None:
    """Run the command."""
    from fima.use.encoder import ClipTransform, load
    from fima.use.encoder import exportable as exportable_encoder
    from fima.use.export.card import model_card
    from fima.use.export.check import CLIPS_PER_VIDEO, compare, real_clips
    from fima.use.export.formats import SUFFIXES, check_format, open_exported, write

    stem = "encoder" if arguments.output == "vectors" else "classifier"
    out = arguments.out or Path(stem + SUFFIXES[arguments.format])
    if out.suffix != SUFFIXES[arguments.format]:
        raise ConfigError(f"-o {out}: --format {arguments.format} ends in {SUFFIXES[arguments.format]}")
    # Each format has a card of its own, so that one encoder can be exported to all of them side by side.
    card_path = out.with_name(f"{out.name}.md")
    for path in (out, card_path):
        if path.exists():
            raise ConfigError(f"{path}: already exists; choose another name with -o, or remove it")
    check_writable(out, flag="out")
    check_format(arguments.format)
    if arguments.output == "logits":
        exportable, description = _classifier(arguments)
    else:
        encoder = load(arguments.encoder)
        sizes = encoder.clip_settings(frames=arguments.frames, crop_size=arguments.crop_size)
        encoder.transform = ClipTransform(frames=sizes.frames, crop_size=sizes.crop_size)
        exportable, description = exportable_encoder(encoder), encoder.description
        if not encoder.about.get("config"):
            shown = f"{exportable.clips.frames} frames of {exportable.clips.crop_size} px, {exportable.clips.timing}"
            doubt = f"does not say which clips it was trained on; {out} is described as one for {shown}"
            warn(f"{arguments.encoder}: {doubt} (change them with --frames, --crop-size)")
    clips = real_clips(arguments.data, replace(exportable.clips, num_clips=CLIPS_PER_VIDEO, num_crops=1))
    write(exportable, out, arguments.format)
    try:
        opened = open_exported(out, arguments.format, module=exportable.module)
        check = compare(opened, exportable.module, clips, source=out)
        num_bytes = out.stat().st_size
        size = f"{num_bytes / 2**20:.2f} MiB"
        card = model_card(
            description,
            exportable.facts,
            source=arguments.encoder,
            name=out.name,
            kind=arguments.format,
            exported=f"`{out.name}` ({arguments.format}, {size}) {_compared(check)}.",
        )
        write_file(card_path, card)
    except BaseException:
        out.unlink(missing_ok=True)
        raise
    if arguments.json:
        record = {"out": str(out), "format": arguments.format, "num_bytes": num_bytes, **asdict(check)}
        print(json.dumps(record))
        return
    side = exportable.clips.crop_size
    taken = f"clips (batch, 3, {exportable.clips.frames}, {side}, {side})"
    print(f"wrote {out} ({size}) and {card_path.name}: {taken} -> {exportable.output}\n{_compared(check)}")


def _compared(check: Check) -> str:
    import torch

    from fima.data.layouts.video_list import counted

    return (
        f"differs from PyTorch by at most {check.largest_difference:.1e} on {check.num_clips} clips (largest value "
        f"{check.largest_value:.3g}); {check.clips_per_second:.1f} clips/s, PyTorch "
        f"{check.pytorch_clips_per_second:.1f}, on {counted(torch.get_num_threads(), 'CPU thread')}"
    )


def _classifier(arguments: ExportArguments) -> tuple[Exportable, str]:
    import torch

    from fima.checkpoints.checkpoint import versions
    from fima.checkpoints.classifier import load_classifier
    from fima.checkpoints.pretrained import encoder_file
    from fima.data.clips import TIMING
    from fima.data.eval_clips import test_clips
    from fima.evaluate.classifier_result import averages_log_softmax
    from fima.use.encoder import preprocessing_of
    from fima.use.export.formats import Exportable

    loaded = load_classifier(encoder_file(Path(arguments.encoder)), device=torch.device("cpu"))
    config = loaded.checkpoint.config
    sizes = {name: getattr(arguments, name) for name in ("frames", "crop_size")}
    settings = replace(test_clips(config), **{name: value for name, value in sizes.items() if value is not None})
    averaged = "log-softmax" if averages_log_softmax(config.classifier) else "logits"
    classes = loaded.checkpoint.classes
    facts = {
        "format": "fima-classifier-export",
        "preprocessing": preprocessing_of(settings, averaged=averaged),
        "backbone": config.classifier.backbone,
        "classes": classes,
        "num_outputs": len(classes),
        "output": f"logits, float32 (batch, {len(classes)})",
        "method": "supervised",
        "epoch": loaded.checkpoint.progress.epoch,
        "config": {
            "model": {"backbone": config.classifier.backbone},
            "data": {
                **{name: getattr(config.data, name) for name in TIMING},
                **{name: getattr(settings, name) for name in sizes},
            },
        },
        "classifier": config_to_mapping(config),
        "versions": versions(),
    }
    exportable = Exportable(
        module=loaded.model, output="logits", weights=dict(loaded.model.state_dict()), facts=facts, clips=settings
    )
    return exportable, f"classifier of {len(classes)} classes on {config.classifier.backbone}"
