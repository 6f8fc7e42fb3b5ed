"""`--optim.freeze-epochs` on several devices: a light module, since each process imports it."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import torch
from torch import nn

from fima.torch_tools import distributed
from fima.train.optimizer import freeze_encoders
from tests.gloo import run_processes


class Chain(nn.Module):
    """A head after an encoder."""

    def __init__(self, networks: nn.ModuleDict) -> None:
        super().__init__()
        self.networks = networks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One number a row."""
        result: torch.Tensor = self.networks["head"](self.networks["encoder"](x))
        return result


def gradients_before_and_after(rank: int) -> dict[str, torch.Tensor]:
    """What two processes with different inputs leave in the weights while the encoder is frozen, and afterwards."""
    torch.manual_seed(0)
    networks = nn.ModuleDict({"encoder": nn.Linear(3, 2), "head": nn.Linear(2, 1)})
    # Importing a real one takes longer than all the rest.
    optimizer = cast(torch.optim.Optimizer, SimpleNamespace(param_groups=[{"params": list(networks.parameters())}]))
    found = {}
    for name, frozen in (("frozen", True), ("free", False)):
        assert freeze_encoders(networks, optimizer, frozen=frozen)
        model = distributed.data_parallel(Chain(networks))
        model(torch.full((1, 3), 1.0 + rank)).sum().backward()
        for key, weight in networks.named_parameters():
            found[f"{name} {key}"] = torch.zeros(0) if weight.grad is None else weight.grad.clone()
        networks.zero_grad(set_to_none=True)
    return found


def test_two_processes_average_the_gradients_of_an_encoder_that_is_free_again(tmp_path: Path) -> None:
    first, second = run_processes(gradients_before_and_after, 2, tmp_path / "group")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not len(first["frozen encoder.weight"])
    torch.manual_seed(0)
    nn.Linear(3, 2)
    head = nn.Linear(2, 1)
    # The mean of inputs of 1 and of 2.
    expected = 1.5 * head.weight.detach().T.expand(2, 3)
    torch.testing.assert_close(first["free encoder.weight"], expected)
