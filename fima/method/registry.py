"""The methods by name: ours, and those of other packages."""

from collections.abc import Callable

from fima.config import MethodConfig, ModelConfig
from fima.method.base import Method
from fima.registry import Registry

BuildMethod = Callable[[ModelConfig, MethodConfig], Method]

METHODS = Registry[BuildMethod]("method", {"fima": "fima.method:build_method", "moco": "fima.method:build_method"})
"""Functions or classes that return the networks with random weights, by the name in `--method.name`."""


def register_method(name: str, build: BuildMethod) -> None:
    """Make a method known as `--method.name` for this process; an entry point does so for the command line.

    `build` returns the networks with random weights.

    Raises:
        ConfigError: there is one of that name.
    """
    METHODS.register(name, build)
