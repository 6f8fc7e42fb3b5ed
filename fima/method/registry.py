"""The methods by name: ours, and those of other packages."""

import inspect
from collections.abc import Callable

from fima.config import MethodConfig, ModelConfig
from fima.errors import ConfigError
from fima.method.base import Method
from fima.registry import Registry

BuildMethod = Callable[..., Method]
"""Called with the settings of the model and of the method; `method.options` are its further keyword arguments."""

METHODS = Registry[BuildMethod]("method", {"fima": "fima.method.fima:FIMA", "moco": "fima.method.fima:FIMA"})
"""Functions or classes that return the networks with random weights, by the name in `--method.name`."""


def register_method(name: str, build: BuildMethod) -> None:
    """Make a method known as `--method.name` for this process; an entry point does so for the command line.

    `build` returns the networks with random weights.

    Raises:
        ConfigError: there is one of that name.
    """
    METHODS.register(name, build)


def method_builder(settings: MethodConfig) -> Callable[[ModelConfig], Method]:
    """Return what builds the networks of a run, with random weights.

    Raises:
        ConfigError: there is no such method, or it does not take the options.
    """
    build = METHODS.builder(settings.name, flag="method.name")
    options = settings.option_values()
    try:
        inspect.signature(build).bind(ModelConfig(), settings, **options)
    except TypeError as error:
        given = " ".join(settings.options)
        raise ConfigError(f"--method.options {given}: {settings.name} does not take them ({error})") from None
    return lambda model: build(model, settings, **options)
