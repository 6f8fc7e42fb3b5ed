import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import fima
from fima.checkpoints import pretrained
from fima.checkpoints.pretrained import load_pretrained
from fima.data.clips import ClipTiming, evenly_spread_starts
from fima.data.datasets import Video, VideoList
from fima.data.decode.video import VideoReader
from fima.data.eval_clips import ClipSettings
from fima.errors import CheckpointError, ConfigError, VideoError
from fima.evaluate.features import encoder_source
from fima.use.encoder import VideoEncoder
from fima.use.export.card import model_card
from fima.use.hub import download
from tests.encoder_files import small_encoder, write_checkpoint
from tests.evaluation_data import extract_features
from tests.fake_hub import COMMIT, fake_hub
from tests.video_files import write_h264_mp4, write_ucf101_avi


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    return [
        write_ucf101_avi(folder / "a.avi", num_frames=20),
        write_h264_mp4(folder / "b.mp4", num_frames=40),
        write_ucf101_avi(folder / "short.avi", num_frames=3, seed=5),
    ]


def test_load_takes_runs_files_and_names(tmp_path: Path, videos: list[Path]) -> None:
    path = write_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")
    from_file, from_run = fima.load(path), fima.load(str(tmp_path / "run"))
    assert (from_file.transform.frames, from_file.transform.crop_size, from_file.num_features) == (4, 32, 512)
    assert from_file.description == "fima tiny, 2 epochs"
    assert not from_file.training
    assert torch.equal(from_file.embed(videos[0]), from_run.embed(videos[0]))
    best = write_checkpoint(tmp_path / "run" / "checkpoints" / "best.pt", seed=1)
    assert fima.load(tmp_path / "run").fingerprint == from_file.fingerprint != fima.load(best).fingerprint


def test_a_saved_folder_is_fine_tuned_on_the_clips_that_it_knows(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub", reason="the extra [hub] is not installed")
    fima.load(write_checkpoint(tmp_path / "last.pt")).save_pretrained(tmp_path / "saved")
    loaded = load_pretrained(tmp_path / "saved", device=torch.device("cpu"))
    assert (loaded.description, loaded.knows_settings) == ("fima tiny, 2 epochs", True)
    assert (loaded.config.data.frames, loaded.config.data.crop_size) == (4, 32)
    alone = tmp_path / "elsewhere.safetensors"
    shutil.copy(tmp_path / "saved" / "model.safetensors", alone)
    assert not load_pretrained(alone, device=torch.device("cpu")).knows_settings


@pytest.mark.parametrize(
    ("data", "timing", "facts", "card"),
    [
        ({}, ClipTiming(), {"frame_stride": 2.0}, "every second one of the video"),
        ({"stride": 4.5}, ClipTiming(stride=4.5), {"frame_stride": 4.5}, "4.5 frames of the video apart"),
        ({"fps": 12.5}, ClipTiming(fps=12.5), {"frames_per_second": 12.5}, "12.5 a second"),
        ({"span": [0.5, 0.9]}, ClipTiming(span=0.7), {"span": 0.7}, "evenly spread over 70% of the video"),
    ],
)
def test_clips_are_timed_as_in_training(
    data: dict[str, Any], timing: ClipTiming, facts: dict[str, float], card: str
) -> None:
    encoder = VideoEncoder(backbone="tiny", frames=4, crop_size=32, about={"config": {"data": data}})
    settings = encoder.clip_settings(clips=3, frames=8)
    assert settings.timing == timing
    assert (settings.frames, settings.crop_size, settings.num_clips) == (8, 32, 3)
    told = encoder.facts()["preprocessing"]
    assert told["frames"] == 4
    assert {name: told[name] for name in ("span", "frames_per_second", "frame_stride") if name in told} == facts
    assert f"- frames: 4 per clip, {card}" in model_card("one", encoder.facts(), source=None, name="x")


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_named(device: str) -> None:
    with pytest.raises(ConfigError, match=f"{device}: .*(choose auto, cpu|GPUs are visible)"):
        fima.load("small", device=device)


def test_load_refuses_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds neither a run"):
        fima.load(tmp_path)
    with pytest.raises(CheckpointError, match="no such"):
        fima.load(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="its encoder is tiny, not i3d"):
        fima.load(write_checkpoint(tmp_path / "last.pt"), backbone="i3d")
    with pytest.raises(ConfigError, match="expected hf://OWNER/NAME"):
        fima.load("hf://name")
    save_file(small_encoder().encoder.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not the settings of a saved encoder"):
        fima.load(tmp_path)


def test_embeddings_are_those_of_the_evaluation(videos: list[Path]) -> None:
    encoder = small_encoder()
    listed = VideoList(
        videos=[Video(path, None) for path in videos], classes=[], root=videos[0].parent, split="all", layout="test"
    )
    settings = ClipSettings(frames=4, crop_size=32, num_clips=3, num_crops=3)
    features = extract_features(encoder_source(encoder.encoder, "x"), listed, settings, device=torch.device("cpu"))
    torch.testing.assert_close(encoder.embed(videos, clips=3, crops=3), features.per_video, atol=1e-5, rtol=0)


def test_embeddings_do_not_depend_on_batches_and_processes(videos: list[Path]) -> None:
    encoder = small_encoder()
    one = encoder.embed(videos, clips=10, batch_size=1, per="clip")
    assert one.shape == (3, 10, 512)
    torch.testing.assert_close(encoder.embed(videos, batch_size=64), one.mean(dim=1), atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.embed(videos, batch_size=7, workers=2, per="clip"), one, atol=1e-5, rtol=0)
    assert encoder.embed([]).shape == (0, 512)
    assert encoder.embed([], clips=3, per="clip").shape == (0, 3, 512)


def test_transform_and_forward_give_what_embed_gives(videos: list[Path]) -> None:
    encoder = small_encoder()
    with VideoReader(videos[0]) as reader:
        start = evenly_spread_starts(reader.num_frames, 8, 1)[0]
        frames = torch.from_numpy(reader.read(range(start, start + 8, 2))).permute(0, 3, 1, 2)
    clip = encoder.transform(frames)
    assert clip.shape == (3, 4, 32, 32)
    assert torch.equal(encoder.transform(frames[None])[0], clip)
    with torch.no_grad():
        vector = encoder(clip[None])
        assert torch.equal(encoder.feature_map(clip[None]).mean(dim=(2, 3, 4)), vector)
    torch.testing.assert_close(vector[0], encoder.embed(videos[0], clips=1), atol=1e-5, rtol=0)
    assert encoder.transform(frames[None][:0]).shape == (0, 3, 4, 32, 32)
    both = torch.stack([frames, frames.flip(3)])
    assert torch.equal(encoder.transform(both)[1], encoder.transform(both[1]))
    array: Any = frames.numpy()
    for wrong in (frames.float(), frames[0], frames.permute(0, 2, 3, 1), frames[..., :0], array):
        with pytest.raises(ConfigError, match="frames must be a uint8 tensor"):
            encoder.transform(wrong)


def test_a_video_that_cannot_be_decoded_is_named(videos: list[Path], tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.avi"
    damaged.write_bytes(b"no video")
    with pytest.raises(VideoError, match=r"damaged\.avi"):
        small_encoder().embed([*videos, damaged])


def test_it_goes_to_the_best_device_and_knows_two_kinds_of_rows() -> None:
    encoder = fima.load("small", device="auto")
    assert encoder.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ConfigError, match="per='second': choose 'video' or 'clip'"):
        encoder.embed("clip.mp4", per="second")  # type: ignore[arg-type]


def test_it_trains_like_any_module() -> None:
    encoder = small_encoder()
    torch.nn.Linear(encoder.num_features, 2)(encoder(torch.randn(2, 3, 4, 32, 32))).sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_saved_pretrained_folders_open_again(tmp_path: Path, videos: list[Path]) -> None:
    pytest.importorskip("huggingface_hub", reason="the extra [hub] is not installed")
    encoder = fima.load(write_checkpoint(tmp_path / "last.pt"))
    encoder.save_pretrained(tmp_path / "saved")
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {"README.md", "config.json", "model.safetensors"}
    expected = encoder.embed(videos[0])
    for opened in (fima.load(tmp_path / "saved"), VideoEncoder.from_pretrained(tmp_path / "saved")):
        assert torch.equal(opened.embed(videos[0]), expected)
        assert opened.transform.frames == 4
        assert {**opened.about, "checkpoint_hash": None} == {**encoder.about, "checkpoint_hash": None}
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "library_name: fima" in card
    assert "# fima tiny, 2 epochs" in card


def test_the_hub_is_asked_for_both_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="the extra [hub] is not installed")
    encoder = small_encoder()
    encoder.save_pretrained(tmp_path)
    asked = []

    def stored(name: str, file: str, revision: str | None) -> str:
        asked.append((name, file, revision))
        return str(tmp_path / file)

    monkeypatch.setattr(hub, "hf_hub_download", stored)
    assert fima.load("hf://someone/encoder@v1").fingerprint == encoder.fingerprint
    assert asked == [("someone/encoder", "config.json", "v1"), ("someone/encoder", "model.safetensors", "v1")]
    assert download("hf://someone/encoder/model.safetensors") == tmp_path / "model.safetensors"


HUB_SESSION = """
import fima
encoder = fima.VideoEncoder(backbone="tiny", frames=4, crop_size=32)
print(encoder.push_to_hub("someone/encoder"))
for opened in (
    fima.load("hf://someone/encoder"),
    fima.load("hf://someone/encoder/model.safetensors", backbone="tiny"),
    fima.VideoEncoder.from_pretrained("someone/encoder"),
):
    assert opened.fingerprint == encoder.fingerprint
assert fima.load("hf://someone/encoder").transform.frames == 4
"""
HUB_ERRORS = """
import sys, fima, fima.errors
for address in sys.argv[1:]:
    try:
        fima.load(address)
    except fima.errors.CheckpointError as error:
        print(error)
"""


@pytest.mark.slow
def test_an_encoder_goes_to_a_hub_and_comes_back(tmp_path: Path) -> None:
    """With the hub's own library, and a hub on this machine; the address of the real one is never asked."""
    pytest.importorskip("huggingface_hub", reason="the extra [hub] is not installed")

    def session(code: str, *argv: str, home: str, **settings: str) -> list[str]:
        environment = {**os.environ, "HF_HOME": str(tmp_path / home), "HF_TOKEN": "hf_test", **settings}
        root = str(Path(__file__).parents[1])
        environment["PYTHONPATH"] = os.pathsep.join([root, environment.get("PYTHONPATH", "")])
        command = [sys.executable, "-c", code, *argv]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    with fake_hub() as hub:
        (url,) = session(HUB_SESSION, home="first", HF_ENDPOINT=hub.address)
        assert url == f"{hub.address}/someone/encoder/commit/{COMMIT}"
        assert {name.rpartition("/")[2] for name in hub.files} == {"README.md", "config.json", "model.safetensors"}
        asked = ["hf://someone/none", "hf://someone/encoder/none.pt"]
        errors = session(HUB_ERRORS, *asked, home="second", HF_ENDPOINT=hub.address)
        assert "no such repository, or it is private" in errors[0]
        assert "it has no such file" in errors[1]
        offline = {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "1"}
        assert session(HUB_ERRORS, "hf://someone/encoder", home="first", **offline) == []
        (error,) = session(HUB_ERRORS, "hf://someone/encoder", home="third", **offline)
    assert error.startswith("hf://someone/encoder: cannot be had from the Hub: HF_HUB_OFFLINE is set")


def test_without_the_hub_library_its_methods_say_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['huggingface_hub'] = None\n"
        "import fima\n"
        "encoder = fima.VideoEncoder(backbone='tiny', frames=4, crop_size=32)\n"
        "for call in (lambda: encoder.save_pretrained('x'), lambda: fima.load('hf://a/b')):\n"
        "    try: call()\n"
        "    except ValueError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.count("pip install 'fima-video[hub]'") == 2


def test_torch_hub_opens_it(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "last.pt")
    root = str(Path(__file__).parents[1])
    encoder = torch.hub.load(  # type: ignore[no-untyped-call]
        root, "encoder", str(path), source="local", trust_repo=True
    )
    assert encoder.fingerprint == fima.load(path).fingerprint
    empty = torch.hub.load(  # type: ignore[no-untyped-call]
        root, "i3d", source="local", trust_repo=True, frames=8, crop_size=64
    )
    assert (empty.num_features, empty.transform.frames) == (1024, 8)


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, fima; assert fima.__version__; assert 'torch' not in sys.modules; print(sorted(dir(fima)))"
    assert "load" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(fima, "nothing")  # noqa: B009


def test_a_run_starts_without_what_few_runs_need() -> None:
    """Loading them takes as long as loading PyTorch."""
    code = "import sys, fima.train.pretrain; print(sorted(sys.modules.keys() & {'matplotlib', 'torchvision'}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"


def test_pixels_are_rounded_before_they_are_normalised() -> None:
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 50, 60), dtype=np.uint8))
    mean, std = torch.tensor([0.43216, 0.394666, 0.37645]), torch.tensor([0.22803, 0.22145, 0.216989])
    pixels = (small_encoder().transform(frames) * std.view(3, 1, 1, 1) + mean.view(3, 1, 1, 1)) * 255
    torch.testing.assert_close(pixels, pixels.round(), atol=1e-3, rtol=0)


def test_an_encoder_that_comes_with_the_package_is_opened_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "ENCODERS", tmp_path / "encoders")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="little: no such file or folder, and no encoder comes with this fima"):
        fima.load("little")
    source = write_checkpoint(tmp_path / "last.pt")
    fima.load(source).half().save_pretrained(tmp_path / "encoders" / "little")
    loaded, expected = fima.load("little"), fima.load(source)
    clips = torch.rand(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    for one, other in zip(loaded.parameters(), expected.parameters(), strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other.half().float(), rtol=0, atol=0)
    torch.testing.assert_close(loaded(clips), expected(clips), rtol=1e-2, atol=1e-2)
    assert load_pretrained(Path("little"), device=torch.device("cpu")).config.model.backbone == "tiny"
    with pytest.raises(CheckpointError, match="and those that come with fima are little"):
        fima.load("small")
    (tmp_path / "small").mkdir()
    with pytest.raises(CheckpointError, match="neither a run"):
        fima.load("small")
    (tmp_path / "little").mkdir()  # such as the results of `fima evaluate little --out little.json`
    assert fima.load("little").fingerprint == loaded.fingerprint
    (tmp_path / "little" / "config.yaml").touch()
    with pytest.raises(CheckpointError, match="little: is a run without its last checkpoint"):
        fima.load("little")
