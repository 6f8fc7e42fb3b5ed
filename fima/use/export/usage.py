"""The lines of Python that open an encoder, for its model card."""

from collections.abc import Mapping
from typing import Any, Literal

from fima.checkpoints.pretrained import METADATA_KEY
from fima.use.export.formats import EXTRA_FILE, INPUT, Format

Kind = Format | Literal["encoder"]
"""A format of `fima export`; or `encoder`, what `fima.load` opens: a saved folder or an address on the Hub."""

ENCODER = """\
import fima

encoder = fima.load({name})
vector = encoder.embed("clip.mp4")  # ({size},): the mean over ten clips
clip = encoder.transform(frames)  # uint8 (T, 3, H, W) -> normalised ({clip})
vectors = encoder(clip[None])  # (1, {size})"""
CLASSIFIER_WEIGHTS = """\
from safetensors import safe_open

with safe_open({name}, framework="pt") as file:
    weights = {{key: file.get_tensor(key) for key in file.keys()}}  # `encoder.*`, and the classifier `fc.*`"""
TORCH_EXPORT = """\
import json

import torch

files = {{"{extra}": ""}}
network = torch.export.load({name}, extra_files=files).module()
about = json.loads(files["{extra}"])  # preprocessing and origin
clips = torch.zeros(2, {clip})  # yours, prepared as below
{output} = network(clips)  # (2, {size})"""
ONNX = """\
import json

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession({name})
about = json.loads(session.get_modelmeta().custom_metadata_map["{key}"])  # preprocessing and origin
clips = np.zeros((2, {clip}), dtype=np.float32)  # yours, prepared as below
({output},) = session.run(None, {{"{input}": clips}})  # (2, {size})"""


def usage(kind: Kind, facts: Mapping[str, Any], *, name: str) -> str:
    """Return the lines that open a file, a folder or an address and use it; facts are those of an exported file."""
    preparation = facts["preprocessing"]
    side = preparation["resize"]["height"]
    is_classifier = "classes" in facts
    template = {
        "encoder": ENCODER,
        "safetensors": CLASSIFIER_WEIGHTS if is_classifier else ENCODER,
        "torch-export": TORCH_EXPORT,
        "onnx": ONNX,
    }[kind]
    code = template.format(
        name=f'"{name}"',
        clip=f"3, {preparation['frames']}, {side}, {side}",
        size=facts["num_outputs"],
        output="logits" if is_classifier else "vectors",
        extra=EXTRA_FILE,
        key=METADATA_KEY,
        input=INPUT,
    )
    if is_classifier and kind != "safetensors":
        code += '\nclasses = [about["classes"][number] for number in logits.argmax(1)]'
    return code
