"""The model card of an encoder, written from its run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from fima.checkpoints.pretrained import METADATA_KEY
from fima.checkpoints.run_folder import MAY_CHANGE_ON_RESUME, RunFolder
from fima.config import PretrainConfig
from fima.errors import ConfigError
from fima.recipe import RECORD_KEY, flatten, read_yaml
from fima.use.export.formats import EXTRA_FILE, INPUT, Format
from fima.visual.html import render

MACHINE = MAY_CHANGE_ON_RESUME - {"optim.epochs"}
"""Settings of the machine and of the records, which no result depends on."""
RECORDED = {"layout": "layout", "list": "split", "videos": "num_videos", "classes": "num_classes"}
"""What a card says of the training data, and what a run calls it."""


def model_card(
    description: str,
    facts: Mapping[str, Any],
    *,
    source: str | None,
    name: str,
    kind: Format | Literal["encoder"] = "encoder",
    exported: str | None = None,
) -> str:
    """Return a card in Markdown, with the header that the Hugging Face Hub reads.

    Args:
        description: one line about the encoder.
        facts: its preprocessing and origin, plain values, as an exported file has them.
        source: what it was loaded from; its run, where there is one, gives data, recipe and results.
        name: of the file, folder or address that a reader opens.
        kind: what that is; `encoder` is what `fima.load` opens, a saved folder or an address on the Hub.
        exported: what there is to say of an exported file: its size, and how it compares with PyTorch.
    """
    run = None if source is None else _run_of(source)
    content = {} if run is None else _content(run)
    record = content.pop(RECORD_KEY, None) or {}
    known = {shown: record[key] for shown, key in RECORDED.items() if key in record}
    return render(
        "fima.use",
        "model_card.md",
        description=description,
        facts=facts,
        name=name,
        kind=kind,
        exported=exported,
        timing=_timing(facts["preprocessing"]),
        videos={"name": Path(record["root"]).name, **known} if record else {},
        is_finetuned="classifier" in content,
        changed=_changed(content) if content and "classifier" not in content else None,
        results=[] if run is None else _results(run),
        extra_file=EXTRA_FILE,
        metadata_key=METADATA_KEY,
        input=INPUT,
    )


def _run_of(source: str) -> RunFolder | None:
    """The run that an encoder comes from: a folder of a run, or the one that a checkpoint lies in."""
    path = Path(source)
    folders = (path, path.parent, path.parent.parent)
    return next((RunFolder(folder) for folder in folders if (folder / "config.yaml").is_file()), None)


def _content(run: RunFolder) -> dict[str, Any]:
    try:
        return read_yaml(run.config)
    except ConfigError:
        return {}


def _timing(facts: Mapping[str, Any]) -> str:
    """How far apart the frames of a clip lie, in words."""
    if "span" in facts:
        return f"evenly spread over {facts['span']:.0%} of the video"
    if "frames_per_second" in facts:
        return f"{facts['frames_per_second']:g} a second, each the one shown at that instant"
    stride = facts["frame_stride"]
    known = {1: "neighbours in the video", 2: "every second one of the video"}
    return known.get(stride, f"{stride:g} frames of the video apart")


def _changed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of pre-training that differ from the paper's."""
    defaults = flatten(PretrainConfig())
    given = {f"{group}.{name}": value for group, values in content.items() for name, value in values.items()}
    names = defaults.keys() - MACHINE
    return {name: value for name, value in given.items() if name in names and defaults[name] != value}


def _results(run: RunFolder) -> list[dict[str, Any]]:
    """Figures of every evaluation in the folder of the run."""
    found = []
    for path in [*sorted((run.root / "evaluation").glob("*.json")), *([run.result] if run.result.is_file() else [])]:
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            data = sorted({Path(entry["root"]).name for entry in result["data"].values() if "root" in entry})
            figures, chance = result["figures"], result["chance"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        found.append({"file": path.name, "data": data, "figures": figures, "chance": chance})
    return found
