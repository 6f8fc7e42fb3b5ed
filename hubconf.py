"""Entry points for `torch.hub.load`, such as `torch.hub.load(REPOSITORY, "encoder", "last.pt")`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fima.use.encoder import VideoEncoder

dependencies = ["av", "numpy", "safetensors", "torch", "torchvision", "yaml"]


def encoder(checkpoint: str, *, backbone: str | None = None, device: str = "cpu") -> "VideoEncoder":
    """Open an encoder.

    Args:
        checkpoint: what `fima.load` takes: folder of a run, a checkpoint, weights, or `hf://OWNER/NAME`.
        backbone: the architecture that it must have; None takes what the file holds.
        device: where its weights go.
    """
    import fima

    return fima.load(checkpoint, backbone=backbone, device=device)


def i3d(*, frames: int = 16, crop_size: int = 224) -> "VideoEncoder":
    """I3D with random weights, to train oneself; frames per clip and side of the clips in pixels."""
    import fima

    return fima.VideoEncoder(backbone="i3d", frames=frames, crop_size=crop_size)


def r2plus1d_18(*, frames: int = 16, crop_size: int = 112) -> "VideoEncoder":
    """R(2+1)D-18 with random weights; see `i3d`."""
    import fima

    return fima.VideoEncoder(backbone="r2plus1d_18", frames=frames, crop_size=crop_size)
