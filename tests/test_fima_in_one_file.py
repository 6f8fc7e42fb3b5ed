"""The method in one file is the method of the package."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from fima.config import MethodConfig, ModelConfig
from fima.method.fima import FIMA
from fima.method.inputs import VIEWS, ClipInputs
from tests.reference import noise

PATH = Path(__file__).parents[1] / "examples" / "fima_in_one_file.py"
SHAPE = (3, 3, 8, 64, 80)
"""Two temporal slices of 4 x 5 cells."""


def load_example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fima_in_one_file", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def clip(name: str) -> dict[str, Tensor]:
    r = (noise(f"{name}.box", (SHAPE[0], 4)) + 1) / 2
    box = torch.stack([0.35 * r[:, 0], 0.35 * r[:, 1], 0.65 + 0.35 * r[:, 2], 0.65 + 0.35 * r[:, 3]], dim=1)
    if name.endswith("a"):
        box[0] = box[0, [2, 1, 0, 3]]
    return {view: noise(f"{name}.{view}", SHAPE) for view in VIEWS} | {"box": box}


def test_three_steps_have_the_losses_of_the_package() -> None:
    example = load_example()
    model = ModelConfig(backbone="tiny", projector_hidden=256, decoder_dim=128, decoder_dropout=0.0)
    settings = MethodConfig(queue_size=example.QUEUE, cell_queue_size=0, key_momentum=example.MOMENTUM)
    package = FIMA(model, settings).double().train()
    mine = example.FIMA(example.small_encoder(), dropout=0.0).double().train()
    state = package.state_dict()
    mine.queue, mine.motion_queue = (state.pop(f"{name}.keys").clone() for name in ("queue", "motion_queue"))
    mine.load_state_dict(
        {name.replace(".layers.", "."): value for name, value in state.items() if "position" not in name}
    )
    networks = (package, mine)
    optimizers = [
        torch.optim.SGD([weight for weight in network.parameters() if weight.requires_grad], lr=0.05, momentum=0.9)
        for network in networks
    ]
    for step in range(3):
        a, b = clip(f"{step}.a"), clip(f"{step}.b")
        theirs = package(*(ClipInputs(views={view: c[view] for view in VIEWS}, box=c["box"]) for c in (a, b)))
        losses = mine(a, b)
        for name, loss in losses.items():
            assert loss.item() == pytest.approx(theirs.parts[name].item(), abs=1e-9), (step, name)
        for optimizer, total in zip(optimizers, (theirs.total, sum(losses.values())), strict=True):
            optimizer.zero_grad()
            torch.autograd.backward(total)
            optimizer.step()
    assert theirs.parts["cell"] > 0


def test_it_is_short_and_stands_alone() -> None:
    lines = PATH.read_text().splitlines()
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    assert not [line for line in imports if "fima" in line]
    assert len(lines) < 330
