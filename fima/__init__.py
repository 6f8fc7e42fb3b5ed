"""FIMA: self-supervised pre-training of video encoders that learn motion, not background.

`fima.load` opens an encoder. It is imported when it is first used, so that `import fima` does not load PyTorch.
"""

import importlib
from typing import TYPE_CHECKING

from fima.version import __version__

if TYPE_CHECKING:
    from fima.backbones.registry import register_backbone
    from fima.data.eval_clips import ClipSettings
    from fima.evaluate.frozen import FrozenEncoder
    from fima.method.registry import register_method
    from fima.use.encoder import ClipTransform, VideoEncoder, load

__all__ = [
    "ClipSettings",
    "ClipTransform",
    "FrozenEncoder",
    "VideoEncoder",
    "__version__",
    "load",
    "register_backbone",
    "register_method",
]

_WHERE = {
    "ClipSettings": "fima.data.eval_clips",
    "FrozenEncoder": "fima.evaluate.frozen",
    "ClipTransform": "fima.use.encoder",
    "VideoEncoder": "fima.use.encoder",
    "load": "fima.use.encoder",
    "register_backbone": "fima.backbones.registry",
    "register_method": "fima.method.registry",
}


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module 'fima' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
