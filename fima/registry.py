"""What is known by name: built in, registered by this process, or of an installed package; PyTorch is not loaded."""

from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Generic, TypeVar, cast

from fima.errors import ConfigError, suggestion

Build = TypeVar("Build", bound=Callable[..., object])


class Registry(Generic[Build]):
    """Functions or classes by name.

    Args:
        kind: what the names are of. Entry points of the group `fima.KINDs`, in any installed package, add to them.
        built_in: `module:attribute` by name.
    """

    def __init__(self, kind: str, built_in: Mapping[str, str]) -> None:
        self.kind = kind
        self.built_in = built_in
        self.registered: dict[str, Build] = {}

    def register(self, name: str, build: Build) -> None:
        """Make a name known for the rest of the process; an entry point makes it known to the command line as well.

        Raises:
            ConfigError: the name is taken.
        """
        if name in self.built_in or self.registered.get(name, build) is not build:
            raise ConfigError(f"{self.kind} {name}: there is one of that name; choose another")
        self.registered[name] = build

    def names(self) -> list[str]:
        """Every name, ours first; no package is imported."""
        return list(dict.fromkeys([*self.built_in, *self.registered, *sorted(self._installed())]))

    def check(self, name: str, *, flag: str) -> None:
        """Raise ConfigError, with the nearest name or all of them, for an unknown name."""
        known = name in self.built_in or name in self.registered
        if not known and name not in self._installed():
            raise ConfigError(f"--{flag} {name}: no such {self.kind}{suggestion(name, self.names())}")

    def builder(self, name: str, *, flag: str) -> Build:
        """What a name stands for.

        Raises:
            ConfigError: there is none of that name, or the package that has it cannot be imported.
        """
        self.check(name, flag=flag)
        if name in self.registered:
            return self.registered[name]
        if name in self.built_in:
            return cast("Build", metadata.EntryPoint(name, self.built_in[name], "").load())
        entry = self._installed()[name]
        try:
            return cast("Build", entry.load())
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"{self.kind} {name}: `{entry.value}` cannot be imported ({error})") from None

    def _installed(self) -> dict[str, metadata.EntryPoint]:
        return {entry.name: entry for entry in metadata.entry_points(group=f"fima.{self.kind}s")}
