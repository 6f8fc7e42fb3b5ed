"""Whole training steps agree with the numbers recorded from the authors' code."""

from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from fima.checkpoints.convert import fima_to_official, official_to_fima
from fima.config import MethodConfig, ModelConfig
from fima.method import losses
from fima.method.fima import FIMA
from fima.method.inputs import ClipInputs, StepLosses
from fima.method.losses import Contrast
from fima.method.motion import frame_difference
from tests.reference import golden_numbers, noise, noise_state

MEAN = (0.43216, 0.394666, 0.37645)
STD = (0.22803, 0.22145, 0.216989)
CASES = ["step_I3D_ucf101", "step_I3D_k400", "step_r2plus1d_18_ucf101"]
STEP_TOLERANCES = (1.5e-9, 5e-8, 1.5e-6)
"""Of the losses at steps 0, 1 and 2: training steps amplify rounding."""
FLOAT32 = {"plain": (2e-5, 7e-4), "oneDNN": (2.5e-5, 7.5e-4)}
"""Tolerance of the losses and queues of step 0, and relative one of the gradients' norms, by who convolves. The first
are those of the README beside the numbers. oneDNN, which PyTorch uses on CPUs, sums a convolution in other blocks, as
wide as the processor's vectors, and so rounds otherwise."""
BACKBONES: dict[str, Literal["i3d", "r2plus1d_18"]] = {"I3D": "i3d", "r2plus1d_18": "r2plus1d_18"}


class Recorder:
    """Wraps the loss functions and keeps what they return, in the golden order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.instance: list[float] = []
        self.frame: list[float] = []
        self.cell: list[float] = []
        info_nce, frame_motion, cell_motion = losses.info_nce, losses.frame_motion, losses.cell_motion

        def record_instance(*args: Tensor, **named: Any) -> Contrast:  # noqa: ANN401
            contrast = info_nce(*args, **named)
            self.instance.append(contrast.loss.item())
            return contrast

        def record_frame(*args: Tensor, **named: Any) -> list[Contrast]:  # noqa: ANN401
            num_instance = len(self.instance)
            result = frame_motion(*args, **named)
            # The frame loss is made of InfoNCE losses, which are not instance losses.
            del self.instance[num_instance:]
            self.frame += [contrast.loss.item() for contrast in result]
            return result

        def record_cell(*args: Tensor, **named: Any) -> losses.Loss:  # noqa: ANN401
            result = cell_motion(*args, **named)
            self.cell.append(result.loss.item())
            return result

        monkeypatch.setattr(losses, "info_nce", record_instance)
        monkeypatch.setattr(losses, "frame_motion", record_frame)
        monkeypatch.setattr(losses, "cell_motion", record_cell)

    def take(self) -> dict[str, list[float]]:
        """The losses since the last call, under their golden names; cell losses averaged over the two slices."""
        first, second, third, fourth = self.cell
        dense = [(first + second) / 2, (third + fourth) / 2]
        taken = {"loss_instance": self.instance, "loss_frame": self.frame, "loss_dense": dense}
        self.instance, self.frame, self.cell = [], [], []
        return taken


def build(case: dict[str, Any], dtype: torch.dtype) -> FIMA:
    method = MethodConfig(queue_size=case["queue_size"], cell_queue_size=case["dense_queue"])
    network = FIMA(ModelConfig(backbone=BACKBONES[case["arch"]], decoder_dropout=0.0), method)
    sources = {
        key: key.replace("encoder_k.", "encoder_q.").replace("projector_dense_k.", "projector_dense.")
        for key in case["keys"]
    }
    drawn = noise_state({source: case["keys"][source] for source in sources.values()})
    state = {key: drawn[source] for key, source in sources.items()}
    network.to(dtype).load_state_dict(official_to_fima(state), strict=True)
    return network.train()


def inputs(step: int, clip: str, shape: list[int], dtype: torch.dtype) -> ClipInputs:
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None, None] for values in (MEAN, STD))

    def pixels(view: str) -> Tensor:
        return (noise(f"step{step}.{view}", shape) + 1) / 2

    def normalised(x: Tensor) -> Tensor:
        return ((x - mean) / std).to(dtype)

    r = (noise(f"step{step}.coord_{clip}", (shape[0], 4)) + 1) / 2
    box = torch.stack([0.35 * r[:, 0], 0.35 * r[:, 1], 0.65 + 0.35 * r[:, 2], 0.65 + 0.35 * r[:, 3]], dim=1)
    if clip == "m":
        box[0] = box[0, [2, 1, 0, 3]]
    return ClipInputs(
        views={
            "full": normalised(pixels(clip)),
            "full_difference": normalised(frame_difference(pixels(clip))),
            "early_difference": normalised(frame_difference(pixels(f"{clip}_l1"))),
            "late_difference": normalised(frame_difference(pixels(f"{clip}_l2"))),
        },
        box=box.to(dtype),
    )


def check_losses(
    result: StepLosses,
    recorded: dict[str, list[float]],
    expected: dict[str, Any],
    *,
    tolerance: float,
    relative: float = 0,
) -> None:
    for name, values in recorded.items():
        assert values == pytest.approx(expected[name], abs=tolerance, rel=relative), name
    assert result.total.item() == pytest.approx(expected["total"], abs=tolerance, rel=relative)
    assert result.parts["instance"].item() == pytest.approx(
        sum(expected["loss_instance"]) / 2, abs=tolerance, rel=relative
    )
    assert result.parts["frame"].item() == pytest.approx(sum(expected["loss_frame"]) / 4, abs=tolerance, rel=relative)
    assert result.parts["cell"].item() == pytest.approx(sum(expected["loss_dense"]) / 2, abs=tolerance, rel=relative)


def check_queues(network: FIMA, expected: dict[str, Any], tolerance: float) -> None:
    for name, queue in (("queue", network.queues["instance"]), ("motion_queue", network.queues["frame"])):
        position = int(queue.position)
        assert position == expected[f"{name}_ptr"]
        newest = queue.keys[position - 1, :8].tolist()
        assert newest == pytest.approx(expected[f"{name}_new_first8"], abs=tolerance)


def check_gradients(network: FIMA, expected: dict[str, float], tolerance: float) -> None:
    gradients = {name: value.grad for name, value in network.named_parameters() if value.grad is not None}
    official = fima_to_official(gradients, prefix="")
    norms = {name: official[name].norm().item() for name in expected}
    assert norms == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize(
    ("name", "num_steps"),
    [
        (CASES[0], 3),
        *(pytest.param(name, 2, marks=pytest.mark.slow) for name in CASES[1:]),
    ],
)
def test_steps_agree_in_float64(name: str, num_steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = golden_numbers()[name]
    recorder = Recorder(monkeypatch)
    network = build(case, torch.float64)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.01, momentum=0.9, weight_decay=1e-4)
    for step, (expected, tolerance) in enumerate(zip(case["steps"][:num_steps], STEP_TOLERANCES, strict=False)):
        result = network(*(inputs(step, clip, case["clip"], torch.float64) for clip in "mn"))
        check_losses(result, recorder.take(), expected, tolerance=tolerance)
        check_queues(network, expected, tolerance)
        if step < num_steps - 1:  # nothing that is recorded depends on the gradients of the last
            optimizer.zero_grad()
            result.total.backward()
            if step == 0:
                check_gradients(network, expected["grad_norms"], 1e-8)
            optimizer.step()
    if num_steps == len(case["steps"]):
        first_parameter = next(network.key_encoder.parameters()).flatten()[:8].tolist()
        assert first_parameter == pytest.approx(case["encoder_k_first_param_first8_after"], abs=1e-9)


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # the context manager touches Intel GPUs' setting, too
@pytest.mark.parametrize(
    ("name", "convolves"),
    [
        *((name, "oneDNN") for name in CASES),
        *(pytest.param(name, "plain", marks=pytest.mark.slow) for name in CASES),
    ],
)
def test_the_first_step_agrees_in_float32(name: str, convolves: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tolerance, of_gradients = FLOAT32[convolves]
    case = golden_numbers()[name]
    recorder = Recorder(monkeypatch)
    network = build(case, torch.float32)
    with torch.backends.mkldnn.flags(enabled=convolves != "plain"):
        result = network(*(inputs(0, clip, case["clip"], torch.float32) for clip in "mn"))
        result.total.backward()
    expected = case["steps"][0]
    check_losses(result, recorder.take(), expected, tolerance=tolerance, relative=tolerance)
    check_queues(network, expected, tolerance)
    check_gradients(network, expected["grad_norms"], of_gradients)
