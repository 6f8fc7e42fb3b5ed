"""How a setting is refused."""

from fima.errors import ConfigError


def require(condition: bool, flag: str, value: object, rule: str) -> None:
    """Refuse the `value` of --`flag` if `condition` does not hold.

    Raises:
        ConfigError: the flag, its value, and the `rule` that it breaks.
    """
    if not condition:
        raise ConfigError(f"--{flag} {value}: {rule}")
