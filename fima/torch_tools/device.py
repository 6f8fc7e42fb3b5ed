"""The device to compute on, and the algorithms there."""

import os

import torch

from fima.errors import ConfigError


def choose_device(name: str, *, flag: str = "device") -> torch.device:
    """Return the device that a flag names. Raises ConfigError where there is none here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"--{flag} {name}: unknown; choose auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"--{flag} {name}: {torch.cuda.device_count()} GPUs are visible; choose another or cpu")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--{flag} {name}: choose auto, cpu, cuda or cuda:N")
    return device


def choose_algorithms(device: torch.device, *, deterministic: bool) -> None:
    """Let PyTorch take algorithms that always add in the same order, or those that are fast.

    Call it before the first tensor is on a GPU. A CPU adds in the same order either way, as long as the number of
    threads is the same. A deterministic run warns once of an operation that cannot give the same bits.
    """
    if deterministic:
        # cuBLAS reads it when it starts; without, products of matrices on several streams differ.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # The call loads PyTorch's compiler, two seconds of a start, so it is not made where it would change nothing.
    if deterministic or torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.backends.cudnn.deterministic = deterministic
    # Trying algorithms out takes those that are the fastest at that moment.
    torch.backends.cudnn.benchmark = device.type == "cuda" and not deterministic
