"""Encoders from files of any program: our own runs, the authors', MoCo-style ones, torchvision's weights."""

import functools
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fima.backbones.registry import BACKBONES, build_backbone
from fima.checkpoints.checkpoint import (
    ENCODER_PREFIX,
    Checkpoint,
    ClassifierCheckpoint,
    LoadedEncoder,
    RunState,
    below,
    file_hash,
    is_of_kind,
    load_weights,
    parse_checkpoint,
)
from fima.checkpoints.run_folder import RunFolder
from fima.checkpoints.torch_file import HoldsClassesError, read_content, read_inert, refuse_other_kinds, remedy, states
from fima.config import ModelConfig, PretrainConfig
from fima.errors import CheckpointError, ConfigError, first_line, near_path, warn
from fima.files.atomic import written_whole
from fima.recipe import config_from_mapping, config_to_mapping

QUERY_PREFIXES = ("encoder_q.", "query_encoder.")
"""Where the encoder lies in a whole model: MoCo-style programs, `fima pretrain`."""
COPIES = frozenset({"k", "key", "target", "momentum", "ema", "student"})
"""Words in the names of encoders that are taken only where a file has no other: averages, and a teacher's student."""
MOST_NAMED = 5
CLASSIFIER = ("fc.", "head.", "classifier.")
HEADS = (*CLASSIFIER, "projector.", "projection", "predictor.", "prototypes.", "queue")
"""What is dropped where it lies next to the weights of an encoder."""
MOTION_PARTS = ("motion_queue", "transformer_decoder.", "embedding1.", "decoder.")
METADATA_KEY = "fima"
"""What `fima convert` knew of an encoder: an entry of a PyTorch file, of a safetensors file's metadata as JSON."""
SAFETENSORS_HEADER_BYTES = 9
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
"""What `save_pretrained` of an encoder writes into a folder."""
ENCODERS = Path(__file__).parents[1] / "encoders"
"""Encoders that come with the package, a folder each as `save_pretrained` writes it; README.md is the model card."""


@dataclass(frozen=True, kw_only=True)
class EncoderFile:
    """The encoder of a file, before it is known to fit a backbone."""

    weights: dict[str, Tensor]
    """Names as in our backbones."""
    method: str
    """As in `LoadedEncoder`."""
    config: PretrainConfig | None = None
    """Settings of the run that trained it; None where the file has none, so its backbone follows from its weights."""
    epoch: int | None = None
    """Whole epochs; None where the file does not say."""
    left_over: tuple[str, ...] = ()
    """Names in the file that are not of the encoder."""


def encoder_file(source: Path) -> Path:
    """Return the file that a folder stands for: the last epoch of a run, the one that fine-tuning chose; or weights.

    The folder is one of a run or of `save_pretrained`; what is neither a file nor such a folder is the name of an
    encoder that comes with the package, else CheckpointError is raised. A file is returned as it is.
    """
    is_name, names = source.name == str(source) and not source.suffix, shipped_encoders()
    if source.is_dir():
        run = RunFolder.of(source)
        for path in (*([run.best] if run.is_finetuned else []), run.last, source / WEIGHTS_FILE):
            if path.is_file():
                return path
        # A folder of results may bear the name of the encoder that was measured.
        if run.config.exists() or not (is_name and source.name in names):
            held = f"holds neither a run (checkpoints/last.pt) nor a saved encoder ({WEIGHTS_FILE})"
            held += "; the encoder comes before the videos"
            if run.config.exists():
                held = f"is a run without its last checkpoint: there is no {run.last}; give a checkpoint file"
            raise CheckpointError(f"{source}: {held}")
    elif source.exists() or not is_name:
        return source
    if source.name not in names:
        shipped = f"those that come with fima are {', '.join(names)}" if names else "no encoder comes with this fima"
        raise CheckpointError(f"{source}: no such file or folder, and {shipped}{near_path(source, names)}")
    return ENCODERS / source.name / WEIGHTS_FILE


def shipped_encoders() -> list[str]:
    """Return the names of the encoders that come with the package."""
    return sorted(path.parent.name for path in ENCODERS.glob(f"*/{WEIGHTS_FILE}"))


def load_pretrained(path: Path, *, backbone: str | None = None, device: torch.device) -> LoadedEncoder:
    """Load the encoder of a file in eval mode, without running any code that the file may hold.

    Read are checkpoints of `fima pretrain` and `fima finetune`; those of the authors' program and of MoCo-style ones
    (`module.encoder_q.*`); state dicts of a bare network, such as torchvision's video ResNets, where a classifier
    (`fc.*`, `head.*`, `classifier.*`) is dropped, below any keys and prefixes of wrappers; and safetensors files of any
    of these. Objects of other classes among the weights are not made. `backbone` is the architecture that it must have;
    None takes what the file holds. A folder is taken as by `encoder_file`. Raises CheckpointError where the file is
    missing, damaged, holds another architecture, or weights are missing or left over.
    """
    path = encoder_file(path)
    found = read_encoder(path)
    name = _architecture(found, backbone, path)
    encoder = build_backbone(name)
    # Files of old programs do not count batches, which no output depends on.
    counters = {name: value for name, value in encoder.state_dict().items() if name.endswith("num_batches_tracked")}
    load_weights(encoder, {**counters, **found.weights}, source=path, what=f"backbone {name}")
    model = ModelConfig(backbone=name)
    return LoadedEncoder(
        encoder=encoder.to(device).eval(),
        config=found.config or PretrainConfig(model=model),
        checkpoint_hash=file_hash(path),
        epoch=found.epoch,
        method=found.method,
        knows_settings=found.config is not None,
        file=path,
    )


def read_encoder(path: Path) -> EncoderFile:
    """Read a file of any of the kinds that `load_pretrained` names. Raises CheckpointError."""
    if path.is_file():
        refuse_other_kinds(path)
        with path.open("rb") as file:
            if file.read(SAFETENSORS_HEADER_BYTES)[-1:] == b"{" or path.suffix == ".safetensors":
                return _from_safetensors(path)
    try:
        content = read_content(path)
    except HoldsClassesError:
        return _from_content(*read_inert(path), source=path)
    if is_of_kind(content, ClassifierCheckpoint):
        classifier = parse_checkpoint(content, ClassifierCheckpoint, source=path)
        settings = classifier.config
        model = ModelConfig(backbone=cast(Any, settings.classifier.backbone))
        config = PretrainConfig(model=model, data=settings.data, optim=settings.optim, run=settings.run)
        return _from_run(classifier, "encoder.", config, method="supervised")
    if is_of_kind(content, Checkpoint):
        checkpoint = parse_checkpoint(content, Checkpoint, source=path)
        # A converted file of the authors' program does not say which clips it was trained on.
        known = None if checkpoint.imported else checkpoint.config
        return _from_run(checkpoint, ENCODER_PREFIX, known, method=checkpoint.config.method.name)
    return _from_content(content, [], source=path)


def _from_run(saved: RunState, prefix: str, config: PretrainConfig | None, *, method: str) -> EncoderFile:
    left_over = tuple(name for name in saved.model if not name.startswith(prefix))
    weights, epoch = below(saved.model, prefix), saved.progress.epoch
    return EncoderFile(weights=weights, method=method, config=config, epoch=epoch, left_over=left_over)


def _from_content(content: object, classes: Sequence[str], *, source: Path) -> EncoderFile:
    """The encoder in a file of another program, which has objects of these classes as well."""
    candidates = list(states(content))
    if not candidates:
        arrays = any(name.startswith("numpy.") and name.endswith(".ndarray") for name in classes)
        held = _held(content, classes)
        raise CheckpointError(f"{source}: holds no weights of an encoder{held}{remedy(source, arrays=arrays)}")

    def rank(keys: str, state: Mapping[str, Tensor]) -> tuple[int, bool]:
        num_agreeing, prefix = _located(state)
        return _rank(num_agreeing, f"{keys}.{prefix}")

    _, state = max(candidates, key=lambda found: rank(*found))
    found, said = from_state(state), content if isinstance(content, dict) else {}
    facts = said.get(METADATA_KEY)
    if isinstance(facts, dict):
        return _with_facts(found, facts, source)
    epoch = said.get("epoch")
    return replace(found, epoch=epoch if isinstance(epoch, int) else None)


def _held(content: object, classes: Sequence[str]) -> str:
    """What a file without weights holds instead."""
    keys = ", ".join(map(str, list(content)[:MOST_NAMED])) if isinstance(content, dict) else type(content).__name__
    refused = f", objects of classes that are not loaded: {', '.join(classes[:MOST_NAMED])}" if classes else ""
    return f" (neither a state dict nor a file with one; it has {keys or 'nothing'}{refused})"


def _rank(num_agreeing: int, place: str) -> tuple[int, bool]:
    """More agreeing weights are better; then an encoder that is trained, rather than a copy, by the keys to it."""
    return num_agreeing, COPIES.isdisjoint(re.split(r"[._]", place))


def _located(state: Mapping[str, Tensor]) -> tuple[int, str]:
    """How many weights of a backbone a state dict has, and what comes before their names, below whatever wrappers."""
    backbones = _known_shapes()
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for name, value in state.items():
        starts = [0, *(place + 1 for place, letter in enumerate(name) if letter == ".")]
        for backbone, shapes in backbones.items():
            for start in starts:
                if shapes.get(name[start:]) == value.shape:
                    counts[name[:start], backbone] += 1
    found = [(count, prefix) for (prefix, _), count in counts.items()]
    return max(found, key=lambda each: _rank(*each), default=(0, ""))


def from_state(state: Mapping[str, Tensor]) -> EncoderFile:
    """Return the encoder of a state dict of a whole model or of a bare network, with or without a classifier."""
    _, prefix = _located(state)
    outer = prefix[: prefix.rstrip(".").rfind(".") + 1]
    others = below(state, outer)
    if prefix.endswith(QUERY_PREFIXES):
        method = "fima" if any(name.startswith(MOTION_PARTS) for name in others) else "moco"
    else:
        classified = any(name.startswith(CLASSIFIER) for name in [*others, *below(state, prefix)])
        method = "supervised" if classified else "encoder"
    weights = {name: value for name, value in below(state, prefix).items() if not name.startswith(HEADS)}
    used = {prefix + name for name in weights}
    return EncoderFile(weights=weights, method=method, left_over=tuple(name for name in state if name not in used))


def nearest_backbone(weights: Mapping[str, Tensor]) -> str | None:
    """Return the backbone of which most names are here, with their shapes; None where it is fewer than a third."""
    shapes = {name: value.shape for name, value in weights.items()}
    # Other networks share names and sizes of a few layers with ours.
    there = {name: len(own.items() & shapes.items()) / len(own) for name, own in _known_shapes().items() if own}
    best = max(there, key=lambda name: there[name])
    return best if there[best] >= 1 / 3 else None


@functools.cache
def shapes_of(backbone: str) -> dict[str, torch.Size]:
    """Return the shapes of a backbone's weights and buffers by name. Raises what building it raises."""
    try:
        with torch.device("meta"):
            network = build_backbone(backbone)
    except Exception:  # a plug-in may look at values, which are not there
        network = build_backbone(backbone)
    return {name: value.shape for name, value in network.state_dict().items()}


def _known_shapes() -> dict[str, dict[str, torch.Size]]:
    """Those of all backbones; of plug-ins that cannot be built, none, with a warning: another may be asked for."""
    found = {}
    for name in BACKBONES.names():
        try:
            found[name] = shapes_of(name)
        except Exception as error:
            if name in BACKBONES.built_in:
                raise
            warn(f"the backbone {name} of another package cannot be built ({first_line(error)}), so it is passed over")
    return found


def _architecture(found: EncoderFile, backbone: str | None, path: Path) -> str:
    """Return the backbone to load into: the one that is asked for, unless the file holds another one."""
    held = nearest_backbone(found.weights) if found.config is None else found.config.model.backbone
    if held is None:
        names = ", ".join(f"`{name}`" for name in list(found.weights)[:3]) or "nothing"
        known = ", ".join(BACKBONES.names())
        raise CheckpointError(f"{path}: holds no encoder of {known}; its weights begin with {names}")
    if backbone is not None and held != backbone:
        raise CheckpointError(f"{path}: its encoder is {held}, not {backbone}; ask for {held}, or give another file")
    return held


def facts_of(config: PretrainConfig | None, *, method: str, epoch: int | None) -> dict[str, Any]:
    """Return what a file says of its encoder, plain values; `config` is None where its settings are not known."""
    return {"config": None if config is None else config_to_mapping(config), "method": method, "epoch": epoch}


def write_safetensors(path: Path, weights: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write weights, in one piece, with `facts_of` them. Raises CheckpointError where that cannot be."""
    contiguous = {name: value.contiguous() for name, value in weights.items()}
    with written_whole(path, kind=CheckpointError) as temporary:
        save_file(contiguous, temporary, metadata={METADATA_KEY: json.dumps(facts)})


def _from_safetensors(path: Path) -> EncoderFile:
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged or no safetensors file ({error}); copy it again") from None
    found = from_state(state)
    settings = path.with_name(CONFIG_FILE)
    if METADATA_KEY not in metadata:
        return _with_saved_settings(found, settings) if path.name == WEIGHTS_FILE and settings.is_file() else found
    try:
        known = json.loads(metadata[METADATA_KEY])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its metadata are damaged ({error}); copy it again") from None
    return _with_facts(found, known, path)


def _with_facts(found: EncoderFile, known: Any, path: Path) -> EncoderFile:  # noqa: ANN401
    """Add what `facts_of` says of an encoder."""
    try:
        settings = known["config"]
        config = None if settings is None else config_from_mapping(settings, PretrainConfig, source=str(path))
        return replace(found, config=config, epoch=known["epoch"], method=known["method"])
    except (KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(f"{path}: its metadata are damaged ({error}); copy it again") from None


def _with_saved_settings(found: EncoderFile, path: Path) -> EncoderFile:
    """Add what `save_pretrained` has written of an encoder."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        about = known.get("about") or {}
        settings = about.get("config") or {"model": {"backbone": known["backbone"]}}
        shown = {name: known[name] for name in ("frames", "crop_size") if name in known}
        settings = {**settings, "data": {**settings.get("data", {}), **shown}}
        config = config_from_mapping(settings, PretrainConfig, source=str(path))
        return replace(found, config=config, epoch=about.get("epoch"), method=about.get("method", found.method))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise CheckpointError(f"{path}: not the settings of a saved encoder ({error})") from None
