"""`fima benchmark`: which steps it takes, what it makes of their times and memory, and what it prints."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from fima.benchmark import machine, steps
from fima.benchmark.machine import Measured, recipe_hours, step_cases
from fima.benchmark.settings import BenchmarkSettings
from fima.benchmark.steps import (
    Parity,
    StepCase,
    StepFigures,
    check_parity,
    largest_batch,
    measure_step,
    random_batch,
)
from fima.cli import main
from fima.commands.benchmark import machine_row
from fima.config import DataConfig

CPU = torch.device("cpu")
GB = 10**9
SMALL = StepCase(backbone="tiny", batch_size=2, frames=4, crop_size=32)


def test_a_gpu_is_measured_in_every_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "computes_in_bfloat16", lambda device: True)
    cases = list(step_cases(BenchmarkSettings(backbones=("i3d",), compile=True), torch.device("cuda")))
    plain = [case for case in cases if case.channels_last and not case.compiled and case.method == "fima"]
    assert [(case.precision, case.batch_size) for case in plain] == [
        (precision, batch) for precision in ("bf16", "tf32", "fp32") for batch in (32, 8)
    ]
    assert {case.crop_size for case in cases} == {224}
    assert [(case.precision, case.batch_size) for case in cases if case.method == "moco"] == [("bf16", 32)]
    assert [case.precision for case in cases if not case.channels_last] == ["bf16", "tf32"]
    assert [case.precision for case in cases if case.compiled] == ["bf16", "tf32"]
    assert cases[-1].compiled


def test_a_cpu_without_bfloat16_takes_small_steps_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "computes_in_bfloat16", lambda device: False)
    cases = list(step_cases(BenchmarkSettings(), CPU))
    assert {(case.precision, case.batch_size, case.crop_size, case.compiled) for case in cases} == {
        ("fp32", 2, 112, False)
    }
    assert {case.backbone for case in cases} == {"i3d", "r2plus1d_18"}


def test_precisions_that_are_asked_for_are_taken_on_a_cpu_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "computes_in_bfloat16", lambda device: False)
    cases = step_cases(BenchmarkSettings(precisions=("bf16",), batches=(4, 2)), CPU)
    assert {(case.precision, case.batch_size) for case in cases if case.method == "fima"} == {("bf16", 2), ("bf16", 4)}


def test_a_step_is_set_against_its_encoder_passes() -> None:
    found = measure_step(SMALL, CPU, seconds=0)
    assert found.error == ""
    assert found.step_seconds is not None
    assert found.key_pass_seconds is not None
    assert found.query_pass_seconds is not None
    # FIMA shows the key encoder four views of each clip, and the query encoder one.
    assert found.floor_seconds == pytest.approx(8 * found.key_pass_seconds + 2 * found.query_pass_seconds)
    assert found.videos_per_second == pytest.approx(2 / found.step_seconds)
    moco = measure_step(replace(SMALL, method="moco"), CPU, seconds=0)
    assert moco.floor_seconds == pytest.approx(2 * moco.key_pass_seconds + 2 * moco.query_pass_seconds)  # type: ignore[operator]


def test_errors_of_memory_and_of_libraries_are_figures_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for error, said in (
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "out of memory"),
        (RuntimeError("cuDNN error: X\nmore"), "cuDNN error: X"),
    ):

        def fail(*_: object, error: RuntimeError = error) -> StepFigures:
            raise error

        monkeypatch.setattr(steps, "_measure", fail)
        assert measure_step(SMALL, CPU, seconds=1) == StepFigures(case=SMALL, error=said)


def test_batches_repeat_their_noise_and_black_ones_take_no_memory() -> None:
    data = DataConfig(frames=4, crop_size=32)
    batch = random_batch(6, data)
    assert torch.equal(batch.a.full[0], batch.a.full[4])
    assert not torch.equal(batch.a.full[0], batch.a.full[1])
    assert not torch.equal(batch.a.full, batch.a.early)
    assert batch.draws_a.shape[:2] == (6, 4)
    assert random_batch(10**6, replace(data, jitter=0), noise=False).a.full.shape[0] == 10**6


@pytest.mark.parametrize(("holes", "expected"), [(0, 31), (10, 29)])
def test_the_largest_batch_is_tried(holes: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100 GB, 2 GB are weights and 3 GB each video, so 31 videos make 95 GB; with 10 GB lost to holes, 29."""

    def figures(case: StepCase) -> StepFigures:
        needed = (2 + 3 * case.batch_size) * GB
        error = "out of memory" if needed > (100 - holes) * GB else ""
        return StepFigures(case=case, peak_bytes=None if error else needed, error=error)

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100 * GB, 100 * GB))
    monkeypatch.setattr(steps, "release", lambda device: None)
    monkeypatch.setattr(steps, "measure_step", lambda case, device, seconds: figures(case))
    small, large = (figures(replace(SMALL, batch_size=size)) for size in (8, 16))
    assert largest_batch(small, large, torch.device("cuda")) == expected
    assert largest_batch(small, small, torch.device("cuda")) is None


def test_hours_of_recipes_follow_from_the_steps() -> None:
    """Ten videos in a second at 112 px are two and a half at 224 px."""
    step = StepFigures(
        case=StepCase(backbone="i3d", batch_size=10, crop_size=112),
        step_seconds=1.0,
        query_pass_seconds=0.5,
        key_pass_seconds=0.25,
    )
    found = {each.recipe: each for each in recipe_hours([step, replace(step, step_seconds=2.0)])}
    assert set(found) == {
        "ucf101_i3d_fima", "k400_i3d_fima", "finetune_ucf101", "finetune_hmdb51", "linear_ucf101", "linear_hmdb51",
    }  # fmt: skip
    assert found["ucf101_i3d_fima"].hours == pytest.approx(9_537 * 200 / 2.5 / 3600)
    assert found["finetune_ucf101"].hours == pytest.approx(9_537 * 150 / 5 / 3600)
    assert found["linear_hmdb51"].hours == pytest.approx(3_570 * 150 / 10 / 3600)
    measured = Measured(machine={"processor": "Some CPU", "cores": 8, "torch": "2.14"}, steps=[step])
    assert machine_row(measured) == "| Some CPU, 8 cores | 2.14 | – | 10.0 (fp32, 112 px, batch 10) | – | – |"


def test_a_device_is_compared_with_the_cpu() -> None:
    found = check_parity("tiny", CPU)
    assert set(found.cpu) == {"loss", "instance", "frame", "cell"}
    assert found.deviation < 1e-6
    assert found.holds
    off = Parity(backbone="tiny", cpu={"loss": 10.0, "cell": 1.0}, device={"loss": 10.0, "cell": 1.0002})
    assert off.deviation == pytest.approx(2e-4)
    assert not off.holds


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["benchmark", "--backbones", "tiny", "--crop-size", "32", "--batches", "2", "--device", "cpu"]
    assert main([*words, "--seconds", "0.01", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["machine"]["torch"] == torch.__version__
    assert found["decoding"]["per_core"] > 0
    assert found["augmentation_videos_per_second"] > 0
    assert {row["error"] for row in found["steps"]} == {machine.OUT_OF_TIME}
    assert main([*words, "--parity"]) == 2
    assert "--parity compares a GPU with the CPU" in capsys.readouterr().err
    for flags in (["--batches", "1"], ["--seconds", "0"], ["--backbones", "i3dd"]):
        assert main([*words, *flags]) == 2
    assert "did you mean `i3d`" in capsys.readouterr().err


def test_the_tables(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(data: DataConfig, seconds: float) -> None:
        raise ModuleNotFoundError("No module named 'av'")

    monkeypatch.setattr(machine, "measure_decoding", fail)
    monkeypatch.setenv("COLUMNS", "120")
    figures = StepFigures(
        case=replace(SMALL, backbone="i3d"), step_seconds=0.5, floor_seconds=0.4, key_pass_seconds=0.1
    )
    rest = StepFigures(case=SMALL, error="out of memory")
    monkeypatch.setattr(steps, "measure_step", lambda case, *_, **__: figures if case.backbone == "i3d" else rest)
    words = ["--backbones", "i3d", "tiny", "--crop-size", "32", "--device", "cpu", "--price", "2", "--seconds", "9"]
    assert main(["benchmark", *words, "--json"]) == 2
    assert "--price 2.0: is for the table" in capsys.readouterr().err
    assert main(["benchmark", *words]) == 0
    printed = capsys.readouterr().out
    assert "decoding: not measured (ModuleNotFoundError: No module named 'av')" in printed
    assert "fima i3d" in printed
    assert "80" in printed
    assert "x out of memory" in printed
    assert "ucf101_i3d_fima" in printed
    assert printed.splitlines()[-1].startswith("| ")
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["benchmark", *words]) == 0
    narrow = capsys.readouterr().out
    table = narrow[narrow.index("┏") : narrow.index("floor: share")]
    assert "videos/s" in table
    assert "…" not in table, "neither a figure nor its heading is cut"
