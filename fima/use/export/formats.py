"""The files of an export, each with a description of the preprocessing inside."""

import contextlib
import copy
import importlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fima.checkpoints.pretrained import METADATA_KEY
from fima.data.eval_clips import ClipSettings
from fima.errors import ConfigError, TrainingError, first_line
from fima.files.atomic import written_whole
from fima.version import pip_install

Format = Literal["safetensors", "torch-export", "onnx"]

SUFFIXES: dict[Format, str] = {"safetensors": ".safetensors", "torch-export": ".pt2", "onnx": ".onnx"}
EXTRA_FILE = "fima.json"
INPUT = "clips"
TRACED_BATCH = 2
"""Clips of the example that is traced; 1 would be taken for a constant."""

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Exportable:
    """What is exported."""

    module: nn.Module
    """Normalised clips (B, 3, F, S, S) -> (B, N), on the CPU in eval mode."""
    output: str
    weights: dict[str, Tensor]
    """What a safetensors file holds."""
    facts: dict[str, Any]
    """Preprocessing, origin and classes; plain values."""
    clips: ClipSettings


def check_format(name: Format) -> None:
    """Raise ConfigError, with how to install them, for a format whose libraries are missing."""
    if name != "onnx":
        return
    for library in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(library)
        except ImportError:
            raise ConfigError(f"--format onnx needs {library}: {pip_install('onnx')}") from None


def write(exportable: Exportable, path: Path, name: Format) -> None:
    """Write a file in one piece. Raises ConfigError for the place or the size, TrainingError for the network."""
    writers = {"safetensors": _write_safetensors, "torch-export": _write_torch_export, "onnx": _write_onnx}
    with written_whole(path) as temporary:
        writers[name](exportable, temporary)


def open_exported(path: Path, name: Format, *, module: nn.Module) -> Run:
    """Open a written file with the program that it is for: clips, float32 (B, 3, F, S, S) -> (B, N).

    The weights of a safetensors file are put into a copy of the module that was exported.
    """
    if name == "onnx":
        runtime = importlib.import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return lambda clips: torch.from_numpy(session.run(None, {INPUT: clips.numpy()})[0])
    if name == "torch-export":
        with _quiet():
            graph = torch.export.load(path).module()
        return graph
    copied = copy.deepcopy(module)
    state = load_file(path)
    own = copied.state_dict()
    prefix = "" if state.keys() == own.keys() else "encoder."
    copied.load_state_dict({prefix + key: value for key, value in state.items()})
    return copied


def _write_safetensors(exportable: Exportable, path: Path) -> None:
    weights = {name: value.contiguous() for name, value in exportable.weights.items()}
    save_file(weights, path, metadata={METADATA_KEY: json.dumps(exportable.facts)})


def _write_torch_export(exportable: Exportable, path: Path) -> None:
    batch = torch.export.Dim("batch", min=1)
    with _quiet(), _in_one_line(exportable):
        program = torch.export.export(exportable.module, (_example(exportable),), dynamic_shapes=({0: batch},))
        with path.open("wb") as file:  # given a path, PyTorch names the parts inside after the temporary file
            torch.export.save(program, file, extra_files={EXTRA_FILE: json.dumps(exportable.facts)})


def _write_onnx(exportable: Exportable, path: Path) -> None:
    with _quiet(), _in_one_line(exportable):
        program = torch.onnx.export(
            exportable.module,
            (_example(exportable),),
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=[exportable.output],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        )
        assert program is not None
        program.model.metadata_props[METADATA_KEY] = json.dumps(exportable.facts)
        program.save(path, external_data=False)


def _example(exportable: Exportable) -> Tensor:
    clips = exportable.clips
    return torch.zeros(TRACED_BATCH, 3, clips.frames, clips.crop_size, clips.crop_size)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' notes on their own progress and future."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


@contextlib.contextmanager
def _in_one_line(exportable: Exportable) -> Iterator[None]:
    """Turn an exporter's error, which is long, into one line."""
    try:
        exportable.module(_example(exportable))
    except RuntimeError as error:
        size = f"--frames {exportable.clips.frames} --crop-size {exportable.clips.crop_size}"
        raise ConfigError(f"{size}: the network takes no such clips ({first_line(error)})") from None
    try:
        yield
    except (RuntimeError, torch.onnx.OnnxExporterError) as error:
        raise TrainingError(f"PyTorch cannot export this network ({first_line(error)}); try another --format") from None
