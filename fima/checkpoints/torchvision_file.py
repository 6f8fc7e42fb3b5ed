"""Weights that torchvision knows by name, where PyTorch's cache has them; nothing is fetched."""

from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import torch
from torchvision import models

from fima.errors import CheckpointError, suggestion

TORCHVISION = "_Weights."
"""What torchvision's names of weights have in common, such as `R2Plus1D_18_Weights.KINETICS400_V1`."""


def torchvision_file(name: str) -> Path:
    """Return the file of weights in PyTorch's cache.

    Args:
        name: such as `R2Plus1D_18_Weights.KINETICS400_V1`, or with `.DEFAULT`.

    Raises:
        CheckpointError: torchvision has no weights of that name (with the nearest), or the cache has no such file.
    """
    try:
        weights = models.get_weight(name)
    except (ValueError, KeyError):
        known = [str(each) for model in models.list_models() for each in models.get_model_weights(model)]
        raise CheckpointError(f"{name}: torchvision has no such weights{suggestion(name, known)}") from None
    path = Path(torch.hub.get_dir(), "checkpoints", PurePosixPath(urlsplit(weights.url).path).name)
    if not path.is_file():
        fetch = f"import torchvision; torchvision.models.get_weight({name!r}).get_state_dict()"
        raise CheckpointError(f'{name}: not in PyTorch\'s cache ({path}); fetch it with `python -c "{fetch}"`')
    return path
