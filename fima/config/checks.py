"""How a setting is refused."""

from fima.errors import ConfigError


def require(condition: bool, flag: str, value: object, rule: str) -> None:
    """Raise ConfigError for the `value` of --`flag`, with the `rule` that it breaks, if `condition` does not hold."""
    if not condition:
        raise ConfigError(f"--{flag} {value}: {rule}")
