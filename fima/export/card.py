"""The model card of an encoder, written from its run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fima.config import PretrainConfig
from fima.engine.run_folder import RunFolder
from fima.errors import ConfigError
from fima.recipe import RECORD_KEY, flatten, read_yaml

LOADABLE = ".safetensors"
TAGS = ("video", "video-feature-extraction", "self-supervised-learning")
LICENCE = (
    "The program that trained it is licensed under Apache-2.0. The licence of these weights is for those who trained "
    "them to choose, and may depend on the terms of the videos. None was recorded."
)
USE = (
    "Vectors of short clips for retrieval, clustering and classification by motion, and a start for fine-tuning. It "
    "was not tested for identifying people, for decisions about people, or on videos unlike those it was trained on."
)
CODE = """```python
import fima

encoder = fima.load({name!r})
vector = encoder.embed("clip.mp4")              # (C,), the mean over ten clips
clip = encoder.transform(frames)                # uint8 (T, 3, H, W) -> normalised (3, T, S, S)
vectors = encoder(clip[None])                   # (1, C)
```"""


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
    exported: Mapping[str, Any] | None = None,
) -> str:
    """Return a card in Markdown, with the header that the Hugging Face Hub reads.

    Args:
        description: one line about the encoder.
        facts: its preprocessing and origin, plain values.
        source: what it was loaded from; its run, where there is one, gives data, recipe and results.
        name: what a reader gives to `fima.load`.
        exported: sizes, differences and speeds of an export.
    """
    header = ["---", "library_name: fima", "tags:", *(f"- {tag}" for tag in TAGS), "---"]
    run = None if source is None else run_of(source)
    load_name = name if name.endswith(LOADABLE) or "." not in name else str(source)
    sections = {
        "Use": f"{CODE.format(name=load_name)}\n\n{USE}",
        "Preprocessing": _items(facts["preprocessing"]),
        "Training data": _data(run),
        "Recipe": _recipe(run),
        "Results": _results(run),
        "This file": _items(exported) if exported else None,
        "Licence": LICENCE,
        "Method": "FIMA: Fine-Grained Spatiotemporal Motion Alignment for Contrastive Video Representation Learning, "
        "ACM Multimedia 2023 (arXiv 2309.00297); or MoCo on the same clips, as said in the first line.",
    }
    body = [f"## {title}\n\n{text}" for title, text in sections.items() if text]
    return "\n".join(header) + f"\n\n# {description}\n\n" + "\n\n".join(body) + "\n"


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
    names = ("layout", "split", "num_videos", "num_classes")
    known = {name: record[name] for name in names if name in record}
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
    changed = {name: value for name, value in given.items() if name in defaults and defaults[name] != value}
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
        tables.append(f"{where}; in percent:\n\n| figure | value | chance |\n|---|--:|--:|\n{rows}")
    return "\n\n".join(tables) or "Not evaluated."
