"""How a setting is refused."""

from collections.abc import Mapping

from fima.errors import ConfigError


def as_flag(setting: str) -> str:
    """Return the flag of a setting, as `--help` shows it: `data.crop_size` -> `--data.crop-size`."""
    return "--" + setting.replace("_", "-")


def as_words(settings: Mapping[str, object]) -> list[str]:
    """Return settings by their names as words of a command line."""
    words = []
    for name, value in settings.items():
        flag = as_flag(name)
        if isinstance(value, bool):
            words.append(flag if value else flag.replace(".", ".no-"))
        else:
            words += [flag, *map(str, value if isinstance(value, list | tuple) else [value])]
    return words


def require(condition: bool, flag: str, value: object, rule: str) -> None:
    """Raise ConfigError for the `value` of --`flag`, with the `rule` that it breaks, if `condition` does not hold."""
    if not condition:
        raise ConfigError(f"{as_flag(flag)} {value}: {rule}")


def require_least(settings: object, section: str = "", /, **least: float) -> None:
    """Raise ConfigError for a field of some settings that is given and smaller than what it must be at least."""
    for name, smallest in least.items():
        value = getattr(settings, name)
        rule = f"must be at least {smallest}" if smallest else "must be 0 or more"
        require(value is None or value >= smallest, section + name, value, rule)
