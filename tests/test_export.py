import importlib
import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

import fima
from fima.backbones.registry import build_backbone
from fima.checkpoints.classifier import Classifier
from fima.checkpoints.run_folder import RunFolder
from fima.cli import main
from fima.config import ClassifierConfig
from fima.data.eval_clips import ClipSettings
from fima.errors import CheckpointError, TrainingError
from fima.use.encoder import preprocessing_of
from fima.use.export.card import model_card
from fima.use.export.check import TOLERANCE, compare, real_clips
from fima.use.export.formats import SUFFIXES, Exportable, Format, open_exported, write
from tests.encoder_files import small_encoder, write_checkpoint
from tests.evaluation_data import write_state_dict
from tests.finetune_runs import after
from tests.small_runs import SMALL_CONFIG, with_settings
from tests.video_files import write_ucf101_avi

Capture = pytest.CaptureFixture[str]


def exported(checkpoint: Path, videos: Path, out: Path, name: str, capsys: Capture, *words: str) -> dict[str, object]:
    argv = ["export", str(checkpoint), "--format", name, "-o", str(out), "--data", str(videos), "--json", *words]
    assert main(argv) == 0
    record: dict[str, object] = json.loads(capsys.readouterr().out)
    assert record["num_bytes"] == out.stat().st_size
    assert record["num_clips"] == 8
    return record


def used(out: Path, monkeypatch: pytest.MonkeyPatch, **given: object) -> dict[str, Any]:
    """Run the code of a file's card beside the file, and return its variables."""
    card = out.with_name(f"{out.name}.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    monkeypatch.chdir(out.parent)
    variables: dict[str, Any] = dict(given)
    exec(compile(code, "card", "exec"), variables)
    return variables


@pytest.mark.parametrize("name", ["safetensors", "torch-export", pytest.param("onnx", marks=pytest.mark.slow)])
def test_the_code_of_the_card_runs(
    name: Format, checkpoint: Path, videos: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "onnx":
        pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
        pytest.importorskip("onnxscript", reason="the extra [onnx] is not installed")
    out = tmp_path / f"encoder{SUFFIXES[name]}"
    exported(checkpoint, videos, out, name, capsys)
    write_ucf101_avi(tmp_path / "clip.mp4", num_frames=12)
    frames = torch.zeros(4, 3, 40, 60, dtype=torch.uint8)
    found = used(out, monkeypatch, frames=frames)
    assert found["vectors"].shape == ((1, 512) if name == "safetensors" else (2, 512))
    if name != "safetensors":
        assert found["about"]["preprocessing"]["frames"] == 4
    card = out.with_name(f"{out.name}.md").read_text()
    assert re.search(rf"`{out.name}` \({name}, \d+\.\d\d MiB\) differs from PyTorch by at most \S+ on 8 clips", card)
    assert "resize: to 32 x 32 px, bilinear, without antialiasing" in card
    assert not re.search(r"\d\.\d{7}", card), "figures are rounded"


@pytest.fixture(scope="module")
def classifier(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of fine-tuning."""
    out = tmp_path_factory.mktemp("classifier") / "run"
    after(videos, out)
    return out


def test_the_code_of_a_classifiers_card(
    classifier: Path, videos: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("safetensors", "torch-export"):
        out = tmp_path / f"classifier{SUFFIXES[name]}"
        exported(classifier, videos, out, name, capsys, "--output", "logits")
        found = used(out, monkeypatch)
        assert found["weights"]["fc.weight"].shape == (2, 512) if name == "safetensors" else len(found["classes"]) == 2
        card = out.with_name(f"{out.name}.md").read_text()
        assert "self-supervised" not in card.split("# ")[0]
        assert "Trained with the labels of videos." in card
    words = ["export", str(classifier), "--output", "logits", "--format", "safetensors", "-o"]
    assert main([*words, str(tmp_path / "none.safetensors"), "--frames", "0"]) == 2
    assert "--frames 0: must be at least 1" in capsys.readouterr().err


def test_a_card_without_a_run_says_what_is_not_known() -> None:
    card = model_card("an encoder", small_encoder().facts(), source=None, name="hf://me/mine")
    assert 'fima.load("hf://me/mine")' in card
    assert card.count("Not recorded.") == 3
    assert "Not evaluated." in card


def test_a_card_is_of_the_run_that_the_encoder_comes_from(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever folder one stands in."""
    run = RunFolder(tmp_path / "mine")
    run.checkpoint_folder.mkdir(parents=True)
    shutil.copy(checkpoint, run.last)
    run.write_config(SMALL_CONFIG, {"root": "/data/dances", "num_videos": 8})
    (run.root / "result.json").write_text('{"figures": {"knn/top1": 50.0, "x": NaN}, "chance": {}, "protocols": {}}')

    def card(source: Path | str) -> str:
        return model_card("one", small_encoder().facts(), source=str(source), name="x")

    monkeypatch.chdir(run.root)
    assert card("small").count("Not recorded.") == 3
    elsewhere = shutil.copy(checkpoint, run.root / "copy.pt")
    assert "dances" not in card(elsewhere)
    for source in (run.root, ".", run.last, Path("checkpoints/last.pt")):
        found = card(source)
        assert "- name: dances\n- videos: 8\n" in found
        assert "| `--optim.lr` | 0.05 |" in found
        assert "| knn/top1 | 50.0 |" in found
        assert "folds, in percent" not in found
        assert "The first weights" not in found
    for number in (1, 2):  # as of two checkpoints of a run that went on
        content = {"encoder": {"checkpoint_hash": f"hash {number}"}, "figures": {"knn/top1": number}, "chance": {}}
        content |= {"unit": "fold", "splits": {"p": {}, "q": {}}} if number == 2 else {}
        (run.root / "evaluation").mkdir(exist_ok=True)
        (run.root / "evaluation" / f"{number}.json").write_text(json.dumps({**content, "protocols": {}}))
    found = model_card("one", {**small_encoder().facts(), "checkpoint_hash": "hash 2"}, source=str(run.root), name="x")
    assert "`2.json`, in 2 folds, in percent:" in found
    assert "| knn/top1 | 2.0 |" in found
    assert "| knn/top1 | 1.0 |" not in found
    apart = RunFolder(tmp_path / "other", tmp_path / "apart")
    apart.root.mkdir()
    apart.write_config(with_settings("model", init_from="small"), {"root": "/data/dances", "num_videos": 8})
    write_checkpoint(apart.last)
    assert "The first weights were those of `small`" in card(apart.root)
    assert "| `--optim.lr` | 0.05 |" in card(apart.root)


def test_a_config_of_another_program_is_no_run(checkpoint: Path, videos: Path, tmp_path: Path, capsys: Capture) -> None:
    source = tmp_path / "checkpoints" / "last.pt"
    source.parent.mkdir()
    shutil.copy(checkpoint, source)
    for content in ("lr: 0.1", "fima: {root: 1}\nmodel: 3", "- a"):
        (tmp_path / "config.yaml").write_text(content)
        out = tmp_path / f"{len(content)}.safetensors"
        exported(source, videos, out, "safetensors", capsys)
        assert "Not recorded." in out.with_name(f"{out.name}.md").read_text()


def test_a_file_that_differs_or_has_no_card_does_not_stay(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def fails(*_: object, **__: object) -> str:
        raise RuntimeError("no card")

    words = ["export", str(checkpoint), "--format", "safetensors", "-o", str(tmp_path / "encoder.safetensors")]
    with monkeypatch.context() as patch:
        patch.setattr("fima.use.export.formats.open_exported", lambda *_, module: lambda clips: 1.001 * module(clips))
        assert main(words) == 1
    assert "encoder.safetensors: differs from PyTorch by" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("fima.use.export.card.model_card", fails)
    with pytest.raises(RuntimeError, match="no card"):
        main(words)
    assert not list(tmp_path.iterdir())


def test_safetensors_open_as_the_same_encoder(checkpoint: Path, videos: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "encoder.safetensors"
    record = exported(checkpoint, videos, out, "safetensors", capsys)
    assert record["largest_difference"] == pytest.approx(0, abs=1e-5)
    opened = fima.load(out)
    assert opened.fingerprint == fima.load(checkpoint).fingerprint
    assert (opened.transform.frames, opened.description) == (4, "fima tiny, 2 epochs")
    with safe_open(out, framework="pt") as file:
        facts = json.loads(file.metadata()["fima"])
    assert facts["preprocessing"]["mean"] == [0.43216, 0.394666, 0.37645]
    assert main(["export", str(checkpoint), "--format", "safetensors", "-o", str(out)]) == 2
    assert "already exists" in capsys.readouterr().err


def test_torch_export(checkpoint: Path, videos: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "encoder.pt2"
    record = exported(checkpoint, videos, out, "torch-export", capsys, "--frames", "6", "--crop-size", "48")
    assert float(str(record["largest_difference"])) <= TOLERANCE
    extra = {"fima.json": ""}
    program = torch.export.load(out, extra_files=extra).module()
    facts = json.loads(extra["fima.json"])
    assert facts["preprocessing"]["resize"]["height"] == 48
    assert not any("tmp" in name for name in zipfile.ZipFile(out).namelist()), "named after a temporary file"
    with pytest.raises(CheckpointError, match="a graph of torch"):
        fima.load(out)
    clips = torch.randn(7, 3, 6, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(program(clips), fima.load(checkpoint)(clips), atol=1e-5, rtol=0)


def test_onnx_with_vectors_and_logits(checkpoint: Path, videos: Path, tmp_path: Path, capsys: Capture) -> None:
    for library in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(library, reason="the extra [onnx] is not installed")
    onnxruntime = importlib.import_module("onnxruntime")

    out = tmp_path / "encoder.onnx"
    record = exported(checkpoint, videos, out, "onnx", capsys)
    assert float(str(record["largest_difference"])) <= TOLERANCE
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 3, 4, 32, 32]
    assert [result.name for result in session.get_outputs()] == ["vectors"]
    facts = json.loads(session.get_modelmeta().custom_metadata_map["fima"])
    assert facts["preprocessing"]["frame_stride"] == 2
    clips = torch.randn(5, 3, 4, 32, 32)
    (vectors,) = session.run(None, {"clips": clips.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(vectors), fima.load(checkpoint)(clips), atol=1e-4, rtol=0)


def test_logits_of_a_classifier(classifier: Path, videos: Path, tmp_path: Path, capsys: Capture) -> None:
    last = classifier / "checkpoints" / "last.pt"
    out = tmp_path / "classifier.safetensors"
    exported(last, videos, out, "safetensors", capsys, "--output", "logits")
    assert fima.load(out).fingerprint == fima.load(last).fingerprint
    graph = tmp_path / "graph.pt2"
    exported(last, videos, graph, "torch-export", capsys, "--output", "logits")
    extra = {"fima.json": ""}
    assert torch.export.load(graph, extra_files=extra).module()(torch.randn(3, 3, 4, 32, 32)).shape == (3, 2)
    facts = json.loads(extra["fima.json"])
    assert facts["classes"] == ["a", "b"]
    # The crops and clips of the run's own test, which `fima predict` shows it.
    test = facts["classifier"]["test"]
    expected = ClipSettings(
        frames=4, crop_size=32, num_clips=test["clips"], num_crops=test["crops"], ori_resolution=test["ori_resolution"]
    )
    assert facts["preprocessing"] == preprocessing_of(expected, averaged="logits")


def test_the_crops_of_a_file_are_described_as_they_are_cut() -> None:
    def said(**settings: Any) -> tuple[str, str]:  # noqa: ANN401
        found = preprocessing_of(ClipSettings(frames=4, crop_size=32, **settings))
        return found["crop"], found["clips_of_a_video"]

    averaged = "10 at equal distances from the beginning to the end; their results are averaged"
    assert said() == ("centred square, 0.875 of the short side", averaged)
    # As of 256 source pixels, 0.875 · 256 = 224; square_crops takes no more than the short side.
    assert said(ori_resolution=256)[0] == "centred square of 224 pixels before resizing, at most the short side"
    three = "three squares along the longer side, 0.875 of the short side"
    assert said(num_crops=3, num_clips=5) == (three, averaged.replace("10", "5"))


@pytest.mark.parametrize("name", ["torch-export", pytest.param("onnx", marks=pytest.mark.slow)])
def test_small_with_a_grid_takes_any_number_of_clips(name: Format, tmp_path: Path) -> None:
    if name == "onnx":
        pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
        pytest.importorskip("onnxscript", reason="the extra [onnx] is not installed")
    torch.manual_seed(0)
    module = Classifier(build_backbone("small"), 3, ClassifierConfig(grid=True)).eval()
    settings = ClipSettings(frames=8, crop_size=48)
    file = tmp_path / f"classifier{SUFFIXES[name]}"
    write(Exportable(module=module, output="logits", weights={}, facts={}, clips=settings), file, name)
    run = open_exported(file, name, module=module)
    for count in (1, 3):
        clips = torch.randn(count, 3, 8, 48, 48)
        with torch.no_grad():
            torch.testing.assert_close(run(clips), module(clips), atol=1e-4, rtol=0)


def test_a_file_that_differs_is_refused() -> None:
    clips = torch.randn(3, 3, 2, 8, 8)
    same = compare(lambda x: x.mean((2, 3, 4)), lambda x: x.mean((2, 3, 4)), clips, source=Path("x"))
    assert same.largest_difference < 1e-6
    with pytest.raises(TrainingError, match="x: differs from PyTorch by 1"):
        compare(lambda x: x.mean((2, 3, 4)) + 1e-3, lambda x: x.mean((2, 3, 4)), clips, source=Path("x"))
    with pytest.raises(TrainingError, match="differs"):
        compare(lambda x: x.mean((2, 3, 4)) * 1e-6 + 1e-7, lambda x: x.mean((2, 3, 4)) * 1e-6, clips, source=Path("x"))
    with pytest.raises(TrainingError, match=r"x: does not run .*; try another --format"):
        compare(lambda x: x.view(2, -1, 8), lambda x: x.mean((2, 3, 4)), clips, source=Path("x"))
    with pytest.raises(TrainingError, match="nan"):
        compare(lambda x: x.mean((2, 3, 4)) * torch.nan, lambda x: x.mean((2, 3, 4)), clips, source=Path("x"))


def test_refusals(checkpoint: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ["export", str(checkpoint), "-o", str(tmp_path / "x.onnx")]
    assert main([*argv, "--format", "safetensors"]) == 2
    assert "ends in .safetensors" in capsys.readouterr().err
    assert main([*argv, "--format", "onnx", "--output", "logits"]) == 2
    assert "not a checkpoint of `fima finetune`" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    assert main([*argv, "--format", "onnx"]) == 2
    assert "pip install 'fima-video[onnx]'" in capsys.readouterr().err


def test_clips_of_a_video_or_a_table_will_do(tmp_path: Path) -> None:
    settings = ClipSettings(frames=4, crop_size=32, num_clips=2)
    names = [f"{number}.avi" for number in range(5)]
    for name in names:
        write_ucf101_avi(tmp_path / name, num_frames=8)
    assert len(real_clips(tmp_path / "0.avi", settings)) == 2
    (tmp_path / "list.csv").write_text("\n".join(["path", *names]))
    assert len(real_clips(tmp_path / "list.csv", settings)) == 8  # of four


def test_clips_that_are_not_known_are_said_aloud(videos: Path, tmp_path: Path, capsys: Capture) -> None:
    words = ("--frames", "4", "--crop-size", "32")
    argv = ["export", str(write_state_dict(tmp_path / "bare.pt")), "--format", "safetensors", "--data", str(videos)]
    assert main([*argv, "-o", str(tmp_path / "x.safetensors"), *words]) == 0
    assert "bare.pt: does not say which clips it was trained on" in capsys.readouterr().err


def test_made_clips_will_do() -> None:
    clips = real_clips(None, ClipSettings(frames=4, crop_size=32, num_clips=2))
    assert clips.shape == (8, 3, 4, 32, 32)
    assert clips.std() > 0.1
