"""Encoders of other programs: the same features as their own program computes, and one-line errors."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import transformers
from onnx import TensorProto, helper
from torch import Tensor, nn
from torchvision.models import video

from fima.cli import main
from fima.data.augment import MEAN, STD
from fima.data.decode.video import VideoReader
from fima.data.eval_clips import ClipSettings
from fima.errors import UserError
from fima.evaluate.diagnosis import FLOORS, INPUTS, diagnosis_source
from fima.evaluate.features import encode
from fima.evaluate.frozen import FrozenEncoder
from fima.evaluate.loaded_model import load_subject
from fima.evaluate.other_encoders import open_other
from fima.evaluate.protocols import EvaluationConfig
from fima.use.encoder import preprocessing_of
from fima.use.table import read_embeddings

Capture = pytest.CaptureFixture[str]
CPU = torch.device("cpu")
SIDE, FRAMES = 32, 4
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def some_clips(count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, FRAMES, SIDE, SIDE), dtype=torch.uint8, generator=generator)


def opened(source: object) -> FrozenEncoder:
    encoder = open_other(str(source))
    assert encoder is not None
    return encoder


def normalised_by(clips: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """As their own programs do, colour by colour."""
    return torch.stack([(clips[:, i].float() / 255 - mean[i]) / std[i] for i in range(3)], dim=1)


def refused(source: object, *, frames: int | None = None, crop_size: int | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load_subject(str(source), config=EvaluationConfig(frames=frames, crop_size=crop_size), device=CPU)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_torchvision_from_its_cache_and_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(1)
    theirs = video.mc3_18(weights=None).eval()
    cached = tmp_path / "hub" / "checkpoints" / "mc3_18-a90a0ba3.pth"
    cached.parent.mkdir(parents=True)
    torch.save(theirs.state_dict(), cached)
    theirs.fc = nn.Identity()
    weights = video.MC3_18_Weights.DEFAULT.transforms()
    with torch.no_grad():
        expected = theirs(normalised_by(some_clips(), weights.mean, weights.std))
    for source in ("torchvision:mc3_18", f"torchvision:mc3_18:{cached}"):
        encoder = opened(source)
        assert torch.allclose(encode(encoder.module, some_clips()).mean(dim=(2, 3, 4)), expected, atol=1e-5)
        assert (encoder.clips.frames, encoder.clips.crop_size, encoder.clips.fps) == (16, 112, 15)
    bare = load_subject(str(cached), config=EvaluationConfig(frames=4, crop_size=32), device=CPU)
    assert bare.assumption.endswith("torchvision:mc3_18:FILE knows them")
    floor = opened("torchvision:mc3_18").floor
    assert floor is not None
    assert not torch.equal(encode(floor, some_clips()), encode(encoder.module, some_clips()))
    assert "did you mean `r3d_18`" in refused("torchvision:r3d18")
    cached.unlink()
    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    assert "name the file: torchvision:mc3_18:FILE" in refused("torchvision:mc3_18")


def no_network(*args: object, **settings: object) -> None:
    raise OSError("no network")


SIZES = {"image_size": SIDE, "num_frames": FRAMES, "intermediate_size": 32}
PREDICTOR = {"pred_hidden_size": 24, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1}
OWN_SETTINGS = {
    "videomae": SIZES,
    "timesformer": SIZES,
    "vjepa2": {"crop_size": SIDE, "frames_per_clip": FRAMES, **PREDICTOR},
}


def save(kind: str, layers: int, folder: Path) -> None:
    """Write a small model with random weights."""
    torch.manual_seed(0)
    shared = {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2, "patch_size": 8}
    config = transformers.AutoConfig.for_model(kind, **shared, **OWN_SETTINGS[kind])
    transformers.AutoModel.from_config(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each type of model, as `save_pretrained` of transformers writes it."""
    root = tmp_path_factory.mktemp("models")
    for kind in ("videomae", "vjepa2", "timesformer"):
        save(kind, 1, root / kind)
    preprocessing = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (root / "videomae" / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    return root


@pytest.mark.parametrize(
    ("kind", "slices", "stride", "fps"), [("videomae", 2, 4, 0), ("vjepa2", 2, 2, 4), ("timesformer", 4, 32, 0)]
)
def test_models_of_transformers(kind: str, slices: int, stride: float, fps: float, models: Path) -> None:
    encoder = opened(models / kind)
    assert encoder.clips == ClipSettings(frames=FRAMES, crop_size=SIDE, stride=stride, fps=fps)
    mean, std = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)) if kind == "videomae" else IMAGENET
    assert ("ImageNet" in encoder.assumption) == (kind != "videomae")
    theirs = transformers.AutoModel.from_pretrained(models / kind).eval()
    pixels = normalised_by(some_clips(), mean, std).transpose(1, 2)
    with torch.no_grad():
        tokens = theirs(pixels).last_hidden_state
    tokens = tokens[:, 1:] if kind == "timesformer" else tokens
    found = encode(encoder.module, some_clips())
    assert found.shape == (2, 32, slices, 4, 4)
    assert torch.allclose(found.mean(dim=(2, 3, 4)), tokens.mean(dim=1), atol=1e-5)
    assert encoder.floor is not None


@pytest.mark.parametrize("kind", ["videomae", "vjepa2", "timesformer"])
def test_cells_are_where_their_patches_are(kind: str, tmp_path: Path) -> None:
    save(kind, 0, tmp_path)
    encoder = opened(f"hf:{tmp_path}")
    clips = some_clips(1)
    changed = clips.clone()
    changed[:, :, 3, 8:16, 16:24] = 255 - changed[:, :, 3, 8:16, 16:24]
    differs = (encode(encoder.module, clips) != encode(encoder.module, changed)).any(dim=1)[0]
    assert differs.nonzero().tolist() == [[3 if kind == "timesformer" else 1, 1, 2]]


def test_models_that_are_refused(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--frames 4 --crop-size 48: videomae" in refused(models / "videomae", crop_size=48)
    assert "--frames 8" in refused(f"hf:{models / 'videomae'}", frames=8)
    assert "no config.json" in refused(f"hf:{tmp_path}")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert "a model of type bert, not a known video encoder" in refused(tmp_path)
    (tmp_path / "config.json").write_bytes((models / "vjepa2" / "config.json").read_bytes())
    assert "cannot be loaded" in refused(tmp_path)
    (tmp_path / "config.json").write_bytes((models / "videomae" / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((models / "timesformer" / "model.safetensors").read_bytes())
    assert "its weights lack embeddings." in refused(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "pip install 'fima-video[transformers]'" in refused(models / "videomae")


def write_onnx(path: Path, shape: list[int | str], **metadata: object) -> Path:
    """A network whose features are the means over the colours' pixels, (batch, 3), with the channels on axis 1 or 2."""
    axes = [axis for axis in range(1, len(shape)) if shape[axis] != 3]
    node = helper.make_node("ReduceMean", ["clips", "axes"], ["out"], keepdims=0)
    graph = helper.make_graph(
        [node],
        "means",
        [helper.make_tensor_value_info("clips", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [helper.make_tensor("axes", TensorProto.INT64, [len(axes)], axes)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if metadata:
        helper.set_model_props(model, {"fima": json.dumps(metadata)})
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("shape", [["batch", 3, "frames", 32, 32], ["batch", 4, 3, "height", "width"]])
def test_onnx_files(shape: list[int | str], tmp_path: Path) -> None:
    trained = ClipSettings(frames=4, crop_size=32, span=0.5)
    encoder = opened(write_onnx(tmp_path / "mine.onnx", shape, preprocessing=preprocessing_of(trained)))
    assert (encoder.clips, encoder.assumption) == (trained, "")
    expected = normalised_by(some_clips(3), encoder.mean, encoder.std).mean(dim=(2, 3, 4))
    assert torch.allclose(encode(encoder.module, some_clips(3))[..., 0, 0, 0], expected, atol=1e-5)
    silent = load_subject(write_onnx(tmp_path / "other.onnx", shape), config=EvaluationConfig(), device=CPU)
    assert "does not say" in silent.assumption
    assert f"{silent.clips.frames} frames of {silent.clips.crop_size} px" in silent.assumption
    assert not silent.has_maps


def test_an_onnx_file_with_logits_is_refused(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "classifier.onnx", ["batch", 3, 4, 32, 32], classes=["a", "b", "c"])
    assert "gives the logits of a classifier, not vectors; export its encoder with --output vectors" in refused(path)


def test_onnx_files_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.onnx"
    assert "no such file" in refused(path)
    path.write_text("no graph")
    assert "not an ONNX file" in refused(path)
    assert "batches of exactly 2" in refused(write_onnx(path, [2, 3, "frames", 32, 32]))
    assert "one input (batch, 3, frames, height, width)" in refused(write_onnx(path, ["batch", 3, 32, 32]))
    assert "32 x 48 px" in refused(write_onnx(path, ["batch", 3, "frames", 32, 48]))
    assert "takes no such clips" in refused(write_onnx(path, ["batch", 3, 4, 32, 32]), frames=8)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "pip install 'fima-video[onnx]'" in refused(path)


MINE = """
import fima, torch

def means():
    def network(clips):
        levels = torch.tensor([45, 125, 205], device=clips.device) / 255
        return (1 - (clips.mean(dim=(1, 2, 3, 4))[:, None] - levels).abs() * 4).clamp(min=0)
    return fima.FrozenEncoder(
        name="means", network=network, clips=fima.ClipSettings(frames=4, crop_size=32), mean=(0, 0, 0), std=(1, 1, 1)
    )

def wrong():
    return fima.FrozenEncoder(name="wrong", network=lambda clips: clips[:, :, 0])

def nothing():
    return None

def broken():
    raise KeyError("weights")
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "means_of_clips.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    yield "means_of_clips"
    sys.modules.pop("means_of_clips", None)


def test_functions_that_are_refused(mine: str) -> None:
    assert "wrong: returns (1, 3, 224, 224) for 1 clips; a tensor (B, C) or (B, C, t, h, w)" in refused(f"{mine}:wrong")
    assert "returns NoneType; it must return a fima.FrozenEncoder" in refused(f"{mine}:nothing")
    assert f"{mine}:broken: fails with KeyError: 'weights'" in refused(f"{mine}:broken")
    assert f"{mine}:absent: fails with AttributeError" in refused(f"{mine}:absent")
    assert "no_such_module:means: fails with ModuleNotFoundError" in refused("no_such_module:means")


def evaluate(out: Path, *words: object) -> dict[str, Any]:
    argv = ["evaluate", *words, "--out", out, "--num-clips", 2, "--workers", 0, "--device", "cpu"]
    assert main([str(word) for word in argv]) == 0
    result: dict[str, Any] = json.loads(out.read_text())
    return result


def test_a_function_of_the_user_is_measured_as_all_encoders(
    mine: str, splits: Path, tmp_path: Path, capsys: Capture
) -> None:
    result = evaluate(tmp_path / "a.json", f"{mine}:means", splits, "--protocols", "knn")
    said = " ".join(capsys.readouterr().out.split())
    assert "clips: frames 4, crop_size 32, num_clips 2, num_crops 1, stride 2.0" in said
    assert result["encoder"]["preprocessing"] == {"mean": [0, 0, 0], "std": [1, 1, 1]}
    # The classes are levels of brightness, which these features are.
    assert result["figures"]["knn/top1"] == 100
    assert result["encoder"]["description"] == "means"
    # Nobody knows whether the function is still the same.
    assert not (tmp_path / "means-evaluation" / "cache").exists()
    assert main(["evaluate", f"{mine}:means", str(splits), "--features", "max", "--device", "cpu"]) == 2
    assert "--features max: needs feature maps" in capsys.readouterr().err
    assert main(["evaluate", f"{mine}:means", str(splits), "--backbone", "tiny", "--device", "cpu"]) == 2
    assert "--backbone tiny: is for checkpoints" in capsys.readouterr().err


def test_an_edited_program_with_the_same_weights_is_measured_anew(mine: str, tmp_path: Path) -> None:
    program = tmp_path / f"{mine}.py"
    program.write_text(
        MINE + "\ndef module():\n    return fima.FrozenEncoder(name='flat', network=torch.nn.Identity())\n"
    )
    first, again = (open_other(f"{mine}:module") for _ in range(2))
    program.write_text(program.read_text() + "# edited\n")
    edited = open_other(f"{mine}:module")
    assert first is not None
    assert again is not None
    assert edited is not None
    assert first.key == again.key != edited.key


def test_other_encoders_embed_and_search(mine: str, splits: Path, tmp_path: Path, capsys: Capture) -> None:
    trained = ClipSettings(frames=4, crop_size=32)
    file = write_onnx(tmp_path / "mine.onnx", ["batch", 3, 4, 32, 32], preprocessing=preprocessing_of(trained))
    words = ["embed", str(file), str(splits / "data"), "--clips", "2", "--device", "cpu", "--workers", "0"]
    assert main([*words, "-o", "index.npz"]) == 0
    index = read_embeddings(Path("index.npz"))
    first = splits / "data" / "Dark" / "v_g00.avi"
    with VideoReader(first) as reader:
        frames = torch.from_numpy(reader.read([0, 2, 4, 6]))[:, 2:30, 2:30].permute(3, 0, 1, 2)[None]
    # The video is grey but for one pixel, so its size and the place of its clips make next to no difference.
    expected = normalised_by(frames, MEAN, STD).mean(dim=(2, 3, 4))[0]
    assert torch.allclose(torch.from_numpy(index.vectors[index.paths.index(str(first))]), expected, atol=0.05)
    query = tmp_path / "query.avi"
    query.write_bytes((splits / "data" / "Bright" / "v_g03.avi").read_bytes())
    capsys.readouterr()
    search = ["search", "index.npz", str(query), "--no-centre", "--json", "--device", "cpu"]
    assert main(search) == 0
    assert json.loads(capsys.readouterr().out)[0]["similarity"] == pytest.approx(1)
    other = write_onnx(tmp_path / "other.onnx", ["batch", 4, 3, 32, 32], preprocessing=preprocessing_of(trained))
    assert main([*search, "--encoder", str(other)]) == 2
    assert "its weights are not those that index.npz was made with (mine)" in capsys.readouterr().err
    assert main([*words, "-o", "x.npz", "--frames", "8"]) == 2
    assert "--frames 8 --crop-size 32: mine takes no such clips" in capsys.readouterr().err
    words[1] = f"{mine}:means"
    assert main([*words, "-o", "function.npz"]) == 0
    assert read_embeddings(Path("function.npz")).about["encoder"] == {"description": "means", "fingerprint": "means"}


def test_a_model_of_transformers_is_measured_with_its_maps(
    models: Path, splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [models / "videomae", splits, "--protocols", "knn", "foreground", "--stride", 1]
    result = evaluate(tmp_path / "a.json", *words, "--features", "avg", "grid")
    clips = result["protocols"]["knn"]["clips"]
    assert (clips["frames"], clips["crop_size"], clips["stride"]) == (FRAMES, SIDE, 1)
    assert result["encoder"]["preprocessing"] == {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    assert {"knn@grid/top1", "foreground/motion_share"} <= result["figures"].keys()
    assert len(list((tmp_path / "videomae-videomae-evaluation" / "cache").iterdir())) == 1


def test_the_diagnosis_leaves_out_floors_that_cannot_be_built(models: Path) -> None:
    clips, backgrounds = some_clips(), torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8)
    vectors = FrozenEncoder(name="means", network=lambda clips: clips.mean(dim=(2, 3, 4)))
    for encoder, channels, floors in ((vectors, 3, FLOORS[-1:]), (opened(models / "videomae"), 32, FLOORS)):
        source = diagnosis_source(encoder, backgrounds, torch.zeros(1, dtype=torch.int64))
        assert source.parts == (*INPUTS, *floors)
        num_encoded = len(source.parts) - 1
        assert source.pool(clips).shape == (2, num_encoded * channels + 65 * (FRAMES - 1) + 1)


def test_the_distance_between_frames_is_given_once(capsys: Capture) -> None:
    assert main(["evaluate", "x", "y", "--stride", "2", "--span", "0.5"]) == 2
    assert "--stride and --span" in capsys.readouterr().err
    assert main(["evaluate", "x", "y", "--fps", "0"]) == 2
    assert "--fps 0: must be above 0" in capsys.readouterr().err
