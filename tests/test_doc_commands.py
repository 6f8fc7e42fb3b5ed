"""Every `fima` command line in a block of the README and the documentation is run, on tiny inputs.

A word that stands for an input, such as `VIDEOS` or `runs/mine`, becomes the path of one; the rest is as shown. Flags
make trainings small. What follows `torchrun … -m` or `srun` is run as one process.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from fima.cli import main
from tests.doc_library import INPUTS, SMALL_FINETUNE, SMALL_PRETRAIN, write_library
from tests.doc_pages import PAGES, commands, files_shown, relative

NOT_RUN = {
    "fima benchmark --compile --parity --seconds 500": "compares a GPU with the CPU, and compiles for minutes",
    "fima pretrain VIDEOS --out runs/torchvision --model.backbone r3d_18 --model.init-from torchvision:r3d_18": (
        "takes weights that PyTorch has fetched; tests/test_init_from.py makes such a cache"
    ),
    "fima compare FIMA=runs/fima MoCo=runs/moco torchvision:r3d_18 --on videos.csv --cross-validation group": (
        "takes weights that PyTorch has fetched; tests/test_compare.py compares named encoders"
    ),
}
"""Commands that are not run, and why. `torchrun` and `srun` themselves are in test_processes.py and test_sbatch.py."""

SLOW = frozenset(
    {
        "fima benchmark",
        "fima benchmark --json",
        "fima benchmark --price 2.50",
        "fima evaluate CKPT videos.csv --cross-validation fold --protocols linear attentive low_shot_curve "
        "--features avg depths",
        "fima evaluate CKPT LABELLED --diagnose",
        "fima export runs/classifier --format onnx --output logits",
        "fima export runs/mine --format onnx",
        "fima export runs/mine --format onnx -o mine.onnx --data VIDEOS",
        "fima export runs/small --format onnx --data VIDEOS -o encoder.onnx",
    }
)
"""Commands that take long; what they do, other tests do as well."""

SHORTENED: Mapping[str, Mapping[str, str]] = {
    "pretrain": SMALL_PRETRAIN,
    "finetune": SMALL_FINETUNE,
    "embed": {"--workers": "0", "--clips": "2"},
    "evaluate": {"--workers": "0", "--num-clips": "2"},
    "compare": {"--workers": "0", "--num-clips": "2"},
    "cam": {"--num-videos": "2"},
    "benchmark": {"--backbones": "tiny", "--crop-size": "32", "--seconds": "0.01"},
    "make-data": {"--num-train": "4", "--num-test": "2"},
}
"""Flags that make a command small; they take the place of those that it has."""
REPLACED = {"--low-shot": "6"}
"""Values for flags that a command has."""
OUTPUT_FLAGS = frozenset({"--out", "-o", "--quarantine", "--html"})
WRITES_ITS_SECOND_WORD = frozenset({"convert", "make-data", "prepare"})
"""Commands such as `fima convert IN OUT`."""


def shortened(words: tuple[str, ...]) -> list[str]:
    """A command with the flags that make it small."""
    name, *rest = words
    flags = dict(SHORTENED.get(name, {}))
    if {"recipes/small.yaml", "--preset"} & set(rest):
        flags.pop("--model.backbone", None)  # the recipe starts from weights of its backbone
    if "--smoke" in rest:
        del flags["--data.workers"], flags["--optim.epochs"]
    if "--resume" in rest:
        flags = {"--optim.epochs": "2"}
    if "--resume-from" in rest:
        flags["--optim.epochs"] = "2"
    if "--list-protocols" in rest:
        flags = {}
    flags |= {flag: value for flag, value in REPLACED.items() if flag in rest}
    for flag, value in flags.items():
        if flag in rest:
            rest[rest.index(flag) + 1] = value
        else:
            rest += [flag, value]
    return [name, *rest]


def with_paths(words: list[str], library: Path) -> list[str]:
    """A command whose inputs are those of a library, and whose outputs are in the current folder."""
    name, *rest = words
    done = [name]
    for place, (before, word) in enumerate(zip(words, rest, strict=False), start=1):
        if before in OUTPUT_FLAGS or (place == 2 and name in WRITES_ITS_SECOND_WORD):
            done.append(word.lstrip("/"))
        else:
            done.append(str(library / INPUTS[word]) if word in INPUTS else word)
    return done


def _shown() -> dict[str, tuple[Path, tuple[str, ...]]]:
    """Each command once: the page that shows it first, and the words after `fima`."""
    found: dict[str, tuple[Path, tuple[str, ...]]] = {}
    for page in PAGES:
        for command in commands(page.read_text(encoding="utf-8")):
            words = command.after("fima")
            if words is not None:
                found.setdefault(" ".join(("fima", *words)), (page, words))
    return found


def _distinct() -> list[str]:
    """The commands to run: of those that differ only in what their results are called, the first."""
    found: dict[tuple[str, ...], str] = {}
    for line, (_, words) in SHOWN.items():
        run = with_paths(shortened(words), Path())
        named = ["" if before in OUTPUT_FLAGS else word for before, word in zip(["", *run], run, strict=False)]
        found.setdefault(tuple(named), line)
    return sorted(set(found.values()) - NOT_RUN.keys())


SHOWN = _shown()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("library")
    write_library(root)
    return root


@pytest.mark.parametrize(
    "line", [pytest.param(line, marks=pytest.mark.slow) if line in SLOW else line for line in _distinct()]
)
def test_the_command_runs(
    line: str,
    library: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page, words = SHOWN[line]
    monkeypatch.chdir(tmp_path)
    for name, content in files_shown(page.read_text(encoding="utf-8")).items():
        Path(name).write_text(content, encoding="utf-8")
    if "--resume" in words:
        out = Path(words[words.index("--out") + 1])
        shutil.copytree(library / INPUTS["runs/mine"], out)
    code = main(with_paths(shortened(words), library))
    assert code == 0, f"{relative(page)}: `{line}`: {capsys.readouterr().err}"


def test_what_is_not_run_is_shown() -> None:
    assert NOT_RUN.keys() | SLOW <= SHOWN.keys()
