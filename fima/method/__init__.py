"""The method: encoders, heads, queues and what one training step computes."""

from fima.config import MethodConfig, ModelConfig
from fima.method.fima import FIMA


def build_method(model: ModelConfig, method: MethodConfig) -> FIMA:
    """The networks of a run, with random weights: FIMA, or MoCo, which is its instance term alone.

    Raises:
        ConfigError: the size of a queue in use is still None.
    """
    return FIMA(model, method)
