"""The model card of an encoder, written from its run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fima.checkpoints.run_folder import MAY_CHANGE_ON_RESUME, RunFolder
from fima.config import PretrainConfig
from fima.errors import ConfigError
from fima.recipe import RECORD_KEY, flatten, read_yaml
from fima.use.export.usage import Kind, usage

TAGS = ("video", "video-feature-extraction")
MACHINE = MAY_CHANGE_ON_RESUME - {"optim.epochs"}
"""Settings of the machine and of the records, which no result depends on."""
TIMES = ("span", "frames_per_second", "frame_stride")
METHODS = {
    "fima": "FIMA: Fine-Grained Spatiotemporal Motion Alignment for Contrastive Video Representation Learning, ACM "
    "Multimedia 2023 (arXiv 2309.00297).",
    "moco": "MoCo, the instance loss alone, on the clips of FIMA (arXiv 2309.00297).",
    "supervised": "Trained with the labels of videos.",
}
LICENCE = (
    "The program that trained it is licensed under Apache-2.0. The licence of these weights is for those who trained "
    "them to choose, and may depend on the terms of the videos. None was recorded."
)
ENCODER_USE = "Vectors of short clips for retrieval, clustering and classification by motion, or to fine-tune from."
CLASSIFIER_USE = "Class scores of short clips; a video's are the mean over its clips."
NOT_TESTED = (
    "It was not tested for identifying people, for decisions about people, or on videos unlike those it was trained on."
)


def run_of(source: str) -> RunFolder | None:
    """Return the run that an encoder comes from: a folder of a run, or the one that a checkpoint lies in."""
    path = Path(source)
    for folder in (path, path.parent, path.parent.parent):
        if (folder / "config.yaml").is_file():
            return RunFolder(folder)
    return None


def model_card(
    description: str,
    facts: Mapping[str, Any],
    *,
    source: str | None,
    name: str,
    kind: Kind = "encoder",
    exported: str | None = None,
) -> str:
    """Return a card in Markdown, with the header that the Hugging Face Hub reads.

    Args:
        description: one line about the encoder.
        facts: its preprocessing and origin, plain values.
        source: what it was loaded from; its run, where there is one, gives data, recipe and results.
        name: of the file, folder or address that a reader opens.
        kind: what that is.
        exported: what there is to say of an exported file: its size, and how it compares with PyTorch.
    """
    run = None if source is None else run_of(source)
    method = facts["method"]
    purpose = CLASSIFIER_USE if "classes" in facts else ENCODER_USE
    tags = [*TAGS, *(["self-supervised-learning"] if method in ("fima", "moco") else [])]
    header = ["---", "library_name: fima", "tags:", *(f"- {tag}" for tag in tags), "---"]
    sections = {
        "Use": f"```python\n{usage(kind, facts, name=name)}\n```\n\n{purpose} {NOT_TESTED}",
        "Preprocessing": _preprocessing(facts["preprocessing"]),
        "Training data": _data(run),
        "Recipe": _recipe(run),
        "Results": _results(run),
        "This file": exported,
        "Licence": LICENCE,
        "Method": METHODS.get(method, "Not recorded."),
    }
    body = [f"## {title}\n\n{text}" for title, text in sections.items() if text]
    return "\n".join(header) + f"\n\n# {description}\n\n" + "\n\n".join(body) + "\n"


def _preprocessing(facts: Mapping[str, Any]) -> str:
    """The same as the file holds, in words."""
    size = facts["resize"]
    blurred = "with" if size["antialias"] else "without"
    shown = {
        **facts,
        "frames": f"{facts['frames']} per clip, {_timing(facts)}",
        "resize": f"to {size['width']} x {size['height']} px, {size['mode']}, {blurred} antialiasing",
        **{name: ", ".join(map(str, facts[name])) for name in ("mean", "std")},
    }
    return _items({name: value for name, value in shown.items() if name not in TIMES})


def _timing(facts: Mapping[str, Any]) -> str:
    """How far apart the frames of a clip lie, in words."""
    if "span" in facts:
        return f"evenly spread over {facts['span']:.0%} of the video"
    if "frames_per_second" in facts:
        return f"{facts['frames_per_second']:g} a second, each the one shown at that instant"
    stride = facts["frame_stride"]
    return {1: "neighbours in the video", 2: "every second one of the video"}.get(
        stride, f"{stride:g} frames of the video apart"
    )


def _items(facts: Mapping[str, Any]) -> str:
    return "\n".join(f"- {name.replace('_', ' ')}: {value}" for name, value in facts.items())


def _content(run: RunFolder | None) -> dict[str, Any]:
    if run is None:
        return {}
    try:
        return read_yaml(run.config)
    except ConfigError:
        return {}


def _data(run: RunFolder | None) -> str:
    record = _content(run).get(RECORD_KEY)
    if not record:
        return "Not recorded."
    names = {"layout": "layout", "split": "list", "num_videos": "videos", "num_classes": "classes"}
    known = {shown: record[name] for name, shown in names.items() if name in record}
    labels = "Trained on its labels." if "classifier" in _content(run) else "Trained without its labels."
    return _items({"name": Path(record["root"]).name, **known}) + f"\n\n{labels}"


def _recipe(run: RunFolder | None) -> str:
    """What differs from the paper's settings, and that the rest does not."""
    content = {name: value for name, value in _content(run).items() if name != RECORD_KEY}
    if not content:
        return "Not recorded."
    if "classifier" in content:
        return "Fine-tuned; every setting is in the run's `config.yaml`."
    defaults = flatten(PretrainConfig())
    given = {f"{group}.{name}": value for group, values in content.items() for name, value in values.items()}
    names = defaults.keys() - MACHINE
    changed = {name: value for name, value in given.items() if name in names and defaults[name] != value}
    rows = "\n".join(f"| `--{name}` | {value} |" for name, value in changed.items())
    return (
        f"The paper's settings, but for these:\n\n| setting | value |\n|---|---|\n{rows}"
        if changed
        else ("The paper's settings.")
    )


def _results(run: RunFolder | None) -> str:
    """Figures of every evaluation in the folder of the run."""
    if run is None:
        return "Not evaluated."
    tables = []
    for path in [*sorted((run.root / "evaluation").glob("*.json")), *([run.result] if run.result.is_file() else [])]:
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            figures, chance = result["figures"], result["chance"]
            data = sorted({Path(entry["root"]).name for entry in result["data"].values() if "root" in entry})
        except (OSError, ValueError, KeyError, TypeError):
            continue
        rows = "\n".join(
            f"| {name} | {value:.1f} | {chance[name]:.1f} |" if name in chance else f"| {name} | {value:.1f} | |"
            for name, value in figures.items()
        )
        where = f"`{path.name}`" + (f", on {', '.join(data)}" if data else "")
        tables.append(f"{where}, in percent:\n\n| figure | value | chance |\n|---|--:|--:|\n{rows}")
    if not tables:
        return "Not evaluated."
    return "\n\n".join(["What each figure is: `docs/protocols.md` of the program.", *tables])
