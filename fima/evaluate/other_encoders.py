"""Encoders of other programs: torchvision's, ONNX files, functions; `transformers` has a module of its own."""

import ast
import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor

from fima.backbones.registry import build_backbone
from fima.checkpoints.checkpoint import file_hash, load_weights
from fima.checkpoints.pretrained import METADATA_KEY, EncoderFile, from_state, read_encoder
from fima.data.eval_clips import ClipSettings
from fima.errors import CheckpointError, ConfigError, UserError, first_line, suggestion
from fima.evaluate.feature_store import digest
from fima.evaluate.frozen import FrozenEncoder
from fima.evaluate.transformers_encoder import model_type, open_transformers
from fima.version import pip_install

TORCHVISION = "torchvision:"
TRANSFORMERS = "hf:"
INSTALLED = "site-packages"
"""The folder of installed packages."""
TORCHVISION_CLIPS = {
    "r3d_18": (16, 15.0),
    "mc3_18": (16, 15.0),
    "r2plus1d_18": (16, 15.0),
    "s3d": (128, 15.0),
    "swin3d_t": (32, 15.0),
    "swin3d_s": (32, 15.0),
    "swin3d_b": (32, 15.0),
    "mvit_v2_s": (16, 7.5),
}
"""Frames of a clip and frames a second, with which torchvision states the accuracy of its weights."""


def open_other(source: str) -> FrozenEncoder | None:
    """Open an encoder of another program, on the CPU; None where the source names none, but perhaps one of ours.

    A source is `torchvision:NAME`, with the weights that torchvision names, or `torchvision:NAME:FILE`; `hf:FOLDER`, or
    a folder in the format of `transformers`; an ONNX file; `module:function`, a function without arguments that returns
    a `FrozenEncoder`. Only the last one runs code that is not of an installed package. Raises CheckpointError for files
    that are missing or damaged; ConfigError where there is no such encoder, a library is missing, or the encoder takes
    no video.
    """
    path = Path(source)
    if source.startswith(TORCHVISION):
        return _open_torchvision(source)
    if source.startswith(TRANSFORMERS) and not source.startswith(f"{TRANSFORMERS}//"):
        return open_transformers(Path(source.removeprefix(TRANSFORMERS)))
    if model_type(path) is not None:
        return open_transformers(path)
    if path.suffix == ".onnx":
        return _open_onnx(path)
    module, colon, function = source.partition(":")
    if colon and function.isidentifier() and not path.exists():
        return _call(module, function)
    return None


def unknown_clips(backbone: str, method: str) -> str:
    """Return the `FrozenEncoder.assumption` of weights whose file does not say which clips they were trained on."""
    is_torchvision = method == "supervised" and backbone in TORCHVISION_CLIPS
    return (
        "the file does not say which clips it was trained on; it is shown {clips} (the paper's are 16 of 224, "
        "stride 2; change them with --frames, --crop-size, --stride)"
        + f"; for torchvision's weights, {TORCHVISION}{backbone}:FILE knows them"
        * is_torchvision
    )


def _open_torchvision(source: str) -> FrozenEncoder:
    # Loading torchvision takes a second, which other encoders need not wait for.
    from torchvision.models import get_model_weights

    name, _, file = source.removeprefix(TORCHVISION).partition(":")
    if name not in TORCHVISION_CLIPS:
        raise ConfigError(f"{source}: torchvision has no such video network{suggestion(name, TORCHVISION_CLIPS)}")
    weights = get_model_weights(name).DEFAULT
    found = read_encoder(Path(file)) if file else _from_torchvision(source, weights)
    network = build_backbone(name)
    load_weights(network, found.weights, source=Path(file or source), what=f"backbone {name}")
    transform = weights.transforms()
    frames, fps = TORCHVISION_CLIPS[name]
    return FrozenEncoder(
        name=f"torchvision {name}",
        network=network,
        clips=ClipSettings(frames=frames, crop_size=transform.crop_size[0], fps=fps),
        mean=tuple(transform.mean),
        std=tuple(transform.std),
        untrained=lambda: build_backbone(name),
        file=Path(file) if file else None,
        about={"weights": file or str(weights)},
    )


def _from_torchvision(source: str, weights: Any) -> EncoderFile:  # noqa: ANN401
    """The weights out of torch's cache, where torchvision puts them."""
    try:
        return from_state(weights.get_state_dict(progress=False, check_hash=True))
    except (URLError, OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{source}: its weights are not in {torch.hub.get_dir()}/checkpoints and cannot be downloaded ({error}); "
            f"get {weights.url} and name the file: {source}:FILE"
        ) from None


def _open_onnx(path: Path) -> FrozenEncoder:
    """Open an ONNX file that takes clips (batch, 3, frames, height, width) or (batch, frames, 3, height, width)."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError:
        raise ConfigError(f"{path} needs onnxruntime: {pip_install('onnx')}") from None
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # its errors are raised as well
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of a library whose exceptions have no base class
        raise CheckpointError(f"{path}: not an ONNX file that onnxruntime can run ({first_line(error)})") from None
    (first, *others), shape = session.get_inputs(), session.get_inputs()[0].shape
    channels = [axis for axis in (1, 2) if len(shape) == 5 and shape[axis] == 3]
    if others or len(channels) != 1:
        inputs = ", ".join(f"{each.name} {each.shape}" for each in (first, *others))
        raise ConfigError(
            f"{path}: takes {inputs}; one input (batch, 3, frames, height, width) or (batch, frames, 3, height, "
            "width) is needed"
        )
    if isinstance(shape[0], int):
        raise ConfigError(f"{path}: takes batches of exactly {shape[0]}; export it with a batch size that is free")
    frames, height, width = (shape[axis] for axis in (3 - channels[0], 3, 4))
    if isinstance(height, int) and isinstance(width, int) and height != width:
        raise ConfigError(f"{path}: takes clips of {height} x {width} px; only square clips are supported")
    about = json.loads(session.get_modelmeta().custom_metadata_map.get(METADATA_KEY, "{}"))
    if "classes" in about:
        remedy = "export its encoder with --output vectors; its accuracy is measured by `fima evaluate` of the run"
        raise ConfigError(f"{path}: gives the logits of a classifier, not vectors; {remedy}")
    known = about.get("preprocessing", {})

    def run(clips: Tensor) -> Tensor:
        clips = clips if channels[0] == 1 else clips.transpose(1, 2).contiguous()
        return torch.from_numpy(session.run(None, {first.name: clips.cpu().numpy()})[0]).to(clips.device)

    encoder = FrozenEncoder(name=path.stem, network=run, identity=f"ONNX {file_hash(path)}", file=path)
    default = encoder.clips
    clips = ClipSettings(
        frames=frames if isinstance(frames, int) else known.get("frames", default.frames),
        crop_size=height if isinstance(height, int) else known.get("resize", {}).get("height", default.crop_size),
        stride=known.get("frame_stride", default.stride),
        fps=known.get("frames_per_second", default.fps),
        span=known.get("span", default.span),
    )
    if known:
        return replace(encoder, clips=clips, mean=tuple(known["mean"]), std=tuple(known["std"]))
    sentence = "the file does not say how it takes clips; it is shown {clips}, normalised as ours"
    return replace(encoder, clips=clips, assumption=sentence)


def _call(module: str, function: str) -> FrozenEncoder:
    """Call the user's function; modules in the current folder are found, as by `python -m`."""
    source = f"{module}:{function}"
    sys.path.insert(0, str(Path.cwd()))
    try:
        build: Callable[[], object] = getattr(importlib.import_module(module), function)
        found = build()
    except UserError:
        raise
    except Exception as error:  # of the user's own code
        raise ConfigError(f"{source}: fails with {type(error).__name__}: {first_line(error)}") from error
    finally:
        sys.path.remove(str(Path.cwd()))
    if not isinstance(found, FrozenEncoder):
        raise ConfigError(f"{source}: returns {type(found).__name__}; it must return a fima.FrozenEncoder")
    program = program_hash(module)
    if found.identity is None and found.key is not None and program:
        return replace(found, identity=f"{found.key} {program}")
    return found


def program_hash(module: str) -> str:
    """Return a hash of a module of another program, and of what it imports from its own package or folder; or `""`.

    The same weights in an edited program give other features. Installed packages are not looked at, unless it is one.
    """
    root = _file_of(module.partition(".")[0]) or _file_of(module)
    if root is None:
        return ""
    own, todo = set[Path](), [module]
    while todo:
        name = todo.pop()
        file = None if name.partition(".")[0] == "fima" else _file_of(name)
        if file is not None and file not in own and _is_beside(file, root):
            own.add(file)
            todo += _imported(name, file)
    return digest(sorted(file_hash(file) for file in own))[:16]


def _is_beside(file: Path, root: Path) -> bool:
    """Whether a file belongs to the package of `root`, or to the program in its folder."""
    if root.name != "__init__.py" and INSTALLED in root.parts:
        return file == root
    return file.is_relative_to(root.parent) and INSTALLED not in file.relative_to(root.parent).parts


def _file_of(module: str) -> Path | None:
    file = getattr(sys.modules.get(module), "__file__", None)
    return Path(file) if file is not None and Path(file).is_file() else None


def _imported(module: str, file: Path) -> list[str]:
    """Names of the packages around a module, and of those that its text imports."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    found = [package]
    try:
        statements = list(ast.walk(ast.parse(file.read_bytes()))) if file.suffix == ".py" else []
    except (SyntaxError, ValueError):  # in the middle of an edit
        return found
    for statement in statements:
        if isinstance(statement, ast.Import):
            found += [each.name for each in statement.names]
        elif isinstance(statement, ast.ImportFrom):
            # Of a module without a package, what is relative has failed, and something else was imported.
            above = package.split(".")[: len(package.split(".")) - statement.level + 1] if statement.level else []
            base = ".".join([*above, *([statement.module] if statement.module else [])])
            found += [base, *(f"{base}.{each.name}" for each in statement.names)]
    return found
