"""The device to compute on."""

import torch

from fima.errors import ConfigError


def choose_device(name: str, *, flag: str = "device") -> torch.device:
    """Return the device that a flag names; a numbered GPU becomes the current one, whose stream events belong to.

    Raises ConfigError where there is none here.
    """
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
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)
    return device
