"""The methods: encoders, heads, queues and what one training step computes."""

from fima.config import MethodConfig, ModelConfig
from fima.method.fima import FIMA
from fima.method.moco import MoCo


def build_method(model: ModelConfig, method: MethodConfig) -> MoCo | FIMA:
    """The networks of a run, with random weights.

    Raises:
        ConfigError: a queue size is still None.
    """
    return FIMA(model, method) if method.name == "fima" else MoCo(model, method)
