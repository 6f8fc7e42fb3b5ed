"""What docs/extend.md shows, used from the outside: as files of another package."""

import importlib
import json
import math
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

import fima
from fima.backbones.registry import BACKBONES, build_backbone
from fima.cli import main
from fima.config import MethodConfig, ModelConfig
from fima.data.datasets import list_videos
from fima.errors import CheckpointError, ConfigError
from fima.evaluate.features import encode
from fima.evaluate.loaded_model import load_subject
from fima.evaluate.protocols import EvaluationConfig
from fima.method.fima import FIMA
from fima.method.heads import Projector, pooled
from fima.method.inputs import ClipInputs, View
from fima.method.registry import METHODS
from fima.method.term import QueryPass, Term, TermLoss
from fima.recipe import read_recipe
from fima.train.pretrain import pretrain
from tests.small_runs import SMALL_CONFIG, SMALL_FLAGS, read_lines, with_settings
from tests.video_files import write_ucf101_avi

DOCUMENT = Path(__file__).parents[1] / "docs" / "extend.md"
MOST_LINES = 30


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the documented files, and with an entry point as an installation would leave it."""
    folder = tmp_path_factory.mktemp("package")
    for name, code in re.findall(
        r"```python\n# file: (\S+)\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL
    ):
        (folder / name).write_text(code, encoding="utf-8")
    installed = folder / "my_backbone-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: my-backbone\nVersion: 1\n")
    blocks = re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    lines = []
    for group, names in tomllib.loads("".join(blocks))["project"]["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in names.items())]
    (installed / "entry_points.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture
def imported(package: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(package)
    yield package
    for name in ("my_backbone", "my_data", "my_encoder", "my_loss", "my_logger"):
        sys.modules.pop(name, None)


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


def test_an_encoder_of_another_program(imported: Path) -> None:
    subject = load_subject("my_encoder:build", config=EvaluationConfig(), device=torch.device("cpu"))
    clips = torch.randint(0, 256, (2, 3, 8, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = (clips.double() / 255 - 0.45).reshape(2, 3, 8, 4, 16, 4, 16).mean(dim=(2, 4, 6)).flatten(1) / 0.225
    assert torch.allclose(encode(subject.encoder.module, clips)[..., 0, 0, 0].double(), expected, atol=1e-5)
    assert (subject.clips.frames, subject.clips.stride) == (8, 4)


def test_each_example_is_short(package: Path) -> None:
    names = {path.stem: path for path in package.glob("*.py")}
    assert names.keys() == {"my_backbone", "my_data", "my_encoder", "my_loss", "my_logger"}
    for path in names.values():
        lines = [
            line for line in path.read_text().splitlines() if line.strip() and not line.startswith(("from", "import"))
        ]
        assert len(lines) < MOST_LINES


def test_a_backbone_of_another_package(
    imported: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = " ".join(SMALL_FLAGS).replace("--model.backbone tiny", "--model.backbone two_layers").split()
    out = tmp_path / "run"
    assert main(["pretrain", str(videos), "--out", str(out), *flags, "--optim.epochs", "1"]) == 0
    capsys.readouterr()
    assert main(["embed", str(out), str(videos), "-o", str(tmp_path / "x.npz"), "--json", "--workers", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["num_features"] == 32
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder != str(imported)])
    monkeypatch.setattr(BACKBONES, "registered", {})
    with pytest.raises(CheckpointError, match="no such backbone"):
        fima.load(out)


def test_backbones_of_other_packages_do_not_stand_in_the_way_of_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def with_rates() -> object:
        assert [rate.item() for rate in torch.linspace(0, 0.1, 4)]  # on the meta device, there are none
        return build_backbone("tiny")

    def broken() -> object:
        raise ImportError("no module named abc_def")

    monkeypatch.setattr(BACKBONES, "registered", {"with_rates": with_rates, "broken": broken})
    assert fima.load("small").description.startswith("small")
    said = capsys.readouterr().err
    assert "the backbone broken of another package cannot be built (no module named abc_def)" in said
    assert "with_rates" not in said


def test_names_are_of_installed_packages_or_of_the_process(imported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert BACKBONES.names()[-1] == "two_layers"
    assert fima.VideoEncoder(backbone="two_layers", frames=4, crop_size=32).num_features == 32
    monkeypatch.setattr(BACKBONES, "registered", {})
    build = module("my_backbone").TwoLayers
    fima.register_backbone("mine", build)
    fima.register_backbone("mine", build)
    assert fima.VideoEncoder(backbone="mine").num_features == 32
    with pytest.raises(ConfigError, match="there is one of that name"):
        fima.register_backbone("mine", lambda: build())
    with pytest.raises(ConfigError, match="there is one of that name"):
        fima.register_backbone("i3d", build)
    fima.register_backbone("unfinished", lambda: importlib.import_module("torch").nn.Identity())
    with pytest.raises(ConfigError, match="backbone unfinished: has no whole number `num_features`"):
        fima.VideoEncoder(backbone="unfinished")
    with pytest.raises(ConfigError, match=r"--model\.backbone unknown: no such backbone"):
        fima.VideoEncoder(backbone="unknown")


def test_a_data_set(imported: Path, tmp_path: Path) -> None:
    for name in ("run_1", "run_2", "walk_1"):
        write_ucf101_avi(tmp_path / f"{name}.avi", num_frames=4)
    module("my_data").write_table(tmp_path, tmp_path / "videos.csv")
    train, test = (list_videos(tmp_path / "videos.csv", split) for split in ("train", "test"))
    assert (train.classes, len(train.videos), len(test.videos)) == (["run", "walk"], 2, 1)


@pytest.mark.usefixtures("imported")
def test_a_loss_is_trained_and_resumed_from_the_command_line(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    for epochs in ("1", "2"):
        flags = [*SMALL_FLAGS, "--auto-resume", "--method.name", "simclr", "--optim.epochs", epochs]
        assert main(["pretrain", str(videos), "--out", str(out), *flags]) == 0
    printed = capsys.readouterr().out
    assert "continuing after step 2" in printed
    assert " simclr " in printed
    steps, health = (read_lines(out / "metrics.jsonl", kind) for kind in ("step", "health"))
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert all(line["loss"] == line["simclr"] > 0 for line in steps)
    assert [line["epoch"] for line in health] == [1, 2]
    encoder = fima.load(out)
    assert encoder.num_features == 512


class SubclassedFIMA(FIMA):
    """FIMA under another name."""


class MotionTerm(Term[Tensor]):
    """A term of another package: how far a clip's embedding is from that of the other clip's frame difference."""

    name = "motion"
    views = ("full_difference",)
    queue = None

    def keys(self, maps: Mapping[View, Tensor], project: Projector) -> Tensor:
        """Embeddings (B, D)."""
        embeddings: Tensor = project(pooled(maps["full_difference"]))
        return embeddings

    def loss(self, query: QueryPass, key_a: Tensor, key_b: Tensor) -> TermLoss:
        """One minus the mean cosine."""
        pairs = zip(query.embeddings, (key_b, key_a), strict=True)
        each = torch.stack([1 - (embedding * key).sum(dim=1) for embedding, key in pairs]).mean(dim=0)
        return TermLoss(loss=each.mean(), each=each.detach())


class FIMAWithATerm(FIMA):
    """FIMA, and that term at half the weight."""

    def __init__(self, model: ModelConfig, method: MethodConfig) -> None:
        super().__init__(model, method)
        self.terms.append(MotionTerm())
        self.weights["motion"] = 0.5


def first_step(name: str, videos: Path, out: Path, **weights: float) -> dict[str, float]:
    """The first logged step of a run of a method."""
    config = with_settings("optim", with_settings("method", SMALL_CONFIG, name=name, **weights), epochs=1)
    pretrain(config, data=videos, out=out)
    found: dict[str, float] = read_lines(out / "metrics.jsonl", "step")[0]
    return found


def test_a_subclass_of_fima_has_all_its_losses(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS, "registered", {"subclass": SubclassedFIMA, "with_a_term": FIMAWithATerm})
    expected, found = (first_step(name, videos, tmp_path / name) for name in ("fima", "subclass"))
    for part in ("loss", "instance", "frame", "cell"):
        assert found[part] == expected[part] > 0
    other = first_step("with_a_term", videos, tmp_path / "with_a_term", frame_weight=0, cell_weight=0)
    assert "frame" not in other
    assert other["loss"] == pytest.approx(other["instance"] + other["motion"] / 2, rel=1e-6)
    off = {"instance_weight": 0, "frame_weight": 0, "cell_weight": 0}
    alone = first_step("with_a_term", videos, tmp_path / "alone", **off)
    assert "instance" not in alone
    assert alone["loss"] == pytest.approx(alone["motion"] / 2, rel=1e-6)


def test_the_documented_loss_is_simclrs(imported: Path) -> None:
    network = module("my_loss").SimCLR(SMALL_CONFIG.model, SMALL_CONFIG.method, temperature=0.5).double()
    clips = torch.randn(2, 3, 3, 4, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a, b = (ClipInputs(views={"full": clip}, box=torch.zeros(3, 4)) for clip in clips)
    rows = network.eval().projector(network.query_encoder(clips.flatten(0, 1)).mean(dim=(2, 3, 4))).detach()
    expected = 0.0
    for i in range(6):
        terms = [math.exp(float(rows[i] @ rows[j]) / 0.5) for j in range(6)]
        expected -= math.log(terms[(i + 3) % 6] / (sum(terms) - terms[i])) / 6
    assert network(a, b).total.item() == pytest.approx(expected, rel=1e-9)


def test_a_method_can_be_registered_for_the_process(imported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS, "registered", {})
    fima.register_method("mine", module("my_loss").SimCLR)
    assert METHODS.names() == ["fima", "moco", "mine", "simclr"]
    with pytest.raises(ConfigError, match="there is one of that name"):
        fima.register_method("moco", module("my_loss").SimCLR)


@pytest.mark.parametrize("text", ["0.5", "5e-1"])
def test_options_are_arguments_of_the_method_and_are_recorded(
    text: str, imported: Path, videos: Path, tmp_path: Path
) -> None:
    words = ["--optim.epochs", "1", "--method.name", "simclr", "--method.options"]
    for name, option in (("given", [f"temperature={text}"]), ("default", ["temperature=0.1"]), ("none", [])):
        assert main(["pretrain", str(videos), "--out", str(tmp_path / name), *SMALL_FLAGS, *words, *option]) == 0
    losses = {name: read_lines(tmp_path / name / "metrics.jsonl", "step")[0]["loss"] for name in ("given", "none")}
    assert losses["given"] != losses["none"]
    assert read_lines(tmp_path / "default" / "metrics.jsonl", "step")[0]["loss"] == losses["none"]
    assert read_recipe(tmp_path / "given" / "config.yaml").method.options == (f"temperature={text}",)


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("simclr", "temprature=1", "simclr does not take them .*'temprature'"),
        ("moco", "temperature=1", "moco does not take them"),
        ("simclr", "method=1", "simclr does not take them"),
        ("simclr", "temperature", "must be NAME=VALUE"),
        ("simclr", "temperature=[1", "not valid YAML"),
    ],
)
def test_wrong_options_are_refused_before_any_work(
    name: str, option: str, message: str, imported: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        pretrain(with_settings("method", name=name, options=(option,)), data=tmp_path / "none", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unknown_method_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--method.name mocco: no such method; did you mean `moco`\?$"):
        pretrain(with_settings("method", name="mocco"), data=tmp_path / "none", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_logger(imported: Path, tmp_path: Path) -> None:
    lines = [{"kind": "step", "loss": 1.0}, {"kind": "epoch", "epoch": 1}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sent: list[object] = []
    assert module("my_logger").log_all(tmp_path, sent.append) == 2
    assert sent == lines


def test_an_unknown_name_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", str(tmp_path), "--out", str(tmp_path / "run"), "--model.backbone", "swin3d"]) == 2
    assert "did you mean `swin3d_" in capsys.readouterr().err
