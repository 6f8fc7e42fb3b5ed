"""The model card of an encoder, written from its run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from fima.checkpoints.pretrained import METADATA_KEY, encoder_file
from fima.checkpoints.run_folder import MAY_CHANGE_ON_RESUME, RunFolder
from fima.config import FinetuneConfig, PretrainConfig
from fima.errors import ConfigError
from fima.evaluate.protocols import is_trivial
from fima.recipe import flatten
from fima.use.export.formats import EXTRA_FILE, INPUT, Format
from fima.visual.html import render
from fima.visual.report.runs import read_results

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
    record = {} if run is None else run.record()
    config = None if run is None else run.settings()
    known = {shown: record[key] for shown, key in RECORDED.items() if key in record}
    is_finetuned, changed = isinstance(config, FinetuneConfig), None
    if isinstance(config, PretrainConfig):
        paper = flatten(PretrainConfig())
        changed = {key: value for key, value in flatten(config).items() if key not in MACHINE and value != paper[key]}
    return render(
        "fima.use",
        "model_card.md",
        description=description,
        facts=facts,
        name=name,
        kind=kind,
        exported=exported,
        timing=_timing(facts["preprocessing"]),
        videos={"name": Path(str(record["root"])).name, **known} if "root" in record else {},
        is_finetuned=is_finetuned,
        changed=changed,
        results=[] if run is None else _results(run.root, None if is_finetuned else facts.get("checkpoint_hash")),
        extra_file=EXTRA_FILE,
        metadata_key=METADATA_KEY,
        input=INPUT,
    )


def _run_of(source: str) -> RunFolder | None:
    """The run that an encoder comes from: SOURCE is its folder, or a file among its checkpoints."""
    file = encoder_file(Path(source))
    for root in (Path(source), file.parent.parent):
        try:
            run = RunFolder.of(root)
            if run.config.is_file() and run.checkpoint_folder.resolve() == file.parent.resolve():
                run.settings()
                return run
        except ConfigError:  # a `config.yaml` of another program
            continue
    return None


def _timing(facts: Mapping[str, Any]) -> str:
    """How far apart the frames of a clip lie, in words."""
    if "span" in facts:
        return f"evenly spread over {facts['span']:.0%} of the video"
    if "frames_per_second" in facts:
        return f"{facts['frames_per_second']:g} a second, each the one shown at that instant"
    stride = facts["frame_stride"]
    known = {1: "neighbours in the video", 2: "every second one of the video"}
    return known.get(stride, f"{stride:g} frames of the video apart")


def _results(root: Path, checkpoint_hash: str | None) -> list[dict[str, Any]]:
    """Figures of the evaluations in the folder of the run, of these weights where their hash is known."""
    return [
        {
            "file": Path(result.name).name,
            "data": sorted({root.name for root in result.roots}),
            "num_folds": len(result.content["splits"]) if result.content.get("unit") == "fold" else None,
            "figures": {name: value for name, value in figures.items() if not is_trivial(name, [(figures, chance)])},
            "chance": chance,
        }
        for result in read_results(root)
        for figures, chance in [(result.content["figures"], result.content["chance"])]
        if checkpoint_hash is None
        or result.content.get("encoder", {}).get("checkpoint_hash") in (None, checkpoint_hash)
    ]
