"""Settings as YAML: a recipe gives a run its defaults, and each run records its own settings in the same form."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import yaml

from fima.config import FinetuneConfig, PretrainConfig
from fima.errors import ConfigError, suggestion

Settings = TypeVar("Settings")
RunSettings = TypeVar("RunSettings", PretrainConfig, FinetuneConfig)

RECIPES = Path(__file__).parent / "recipes"
"""The recipes that come with the package."""
RECORD_KEY = "record"
"""Top-level key under which a run writes facts about itself; it holds no setting, and a recipe may carry it."""


@overload
def read_recipe(path: Path) -> PretrainConfig: ...
@overload
def read_recipe(path: Path, kind: type[RunSettings]) -> RunSettings: ...
def read_recipe(path: Path, kind: Any = PretrainConfig) -> Any:
    """Read a recipe, a YAML file, as settings of a kind; what it leaves out keeps its default.

    Raises ConfigError where it is missing or no YAML, or a key or a value is wrong, with the nearest right one.
    """
    return config_from_mapping(read_yaml(path), kind, source=str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping. Raises ConfigError where it cannot be read, or holds none."""
    own = RECIPES / path.name  # where there is no such file, the recipe of that name that came with the package
    try:
        is_own = not path.exists() and path.parent in (Path(), Path(RECIPES.name)) and own.is_file()
        content = yaml.safe_load((own if is_own else path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the recipe ({error.strerror}); check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
            is_tab = "'\\t'" in (error.problem or "")
            what = "a tab; YAML is indented by spaces" if is_tab else error.problem
            reason = f"line {error.problem_mark.line + 1}: {what}"
        raise ConfigError(f"{path}: not valid YAML: {reason}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a recipe is a mapping such as `optim: {{epochs: 100}}`, not a {_kind(content)}")
    return content


def preset_recipe(name: str) -> Path:
    """Return the file of a recipe of the package. Raises ConfigError, with the nearest names, for another name."""
    names = [recipe.stem for recipe in RECIPES.glob("*.yaml")]
    if name not in names:
        raise ConfigError(f"--preset {name}: there is no such recipe{suggestion(name, names)}")
    return RECIPES / f"{name}.yaml"


def config_from_mapping(content: Mapping[str, Any], kind: type[RunSettings], *, source: str) -> RunSettings:
    """Build the settings from nested plain values, as YAML or a checkpoint holds them: section -> setting -> value.

    What is left out keeps the default of `kind`; `source` says in messages where the values come from. Raises
    ConfigError for a key that does not exist (with a suggestion), and for a value of the wrong type or out of range.
    """
    settings = {key: value for key, value in content.items() if key != RECORD_KEY}
    return _build(kind, settings, source=source, prefix="", default=kind())


def config_to_mapping(config: PretrainConfig | FinetuneConfig) -> dict[str, Any]:
    """Return the settings as nested plain values that YAML and a checkpoint can hold."""
    plain: dict[str, Any] = dataclasses.asdict(config)
    return {
        section: {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
        for section, settings in plain.items()
    }


def flatten(config: PretrainConfig | FinetuneConfig) -> dict[str, Any]:
    """Return the settings by flag name: `optim.lr` -> 0.01."""
    return {
        f"{section}.{key}": value
        for section, settings in config_to_mapping(config).items()
        for key, value in settings.items()
    }


def _build(kind: type[Settings], content: Any, *, source: str, prefix: str, default: Settings) -> Settings:  # noqa: ANN401
    if not isinstance(content, Mapping):
        raise ConfigError(f"{source}: `{prefix.rstrip('.')}` holds settings, not a {_kind(content)}")
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, value in content.items():
        if key not in hints:
            raise ConfigError(f"{source}: unknown key `{prefix}{key}`{_key_suggestion(str(key), prefix, hints)}")
        hint = hints[key]
        if dataclasses.is_dataclass(hint):
            values[key] = _build(
                typing.cast(type, hint),
                {} if value is None else value,
                source=source,
                prefix=f"{prefix}{key}.",
                default=getattr(default, key),
            )
        else:
            values[key] = _convert(value, hint, name=f"{source}: `{prefix}{key}`")
    try:
        built: Settings = dataclasses.replace(typing.cast(Any, default), **values)
        return built
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def _key_suggestion(key: str, prefix: str, hints: Mapping[str, Any]) -> str:
    """Suggest a key of this section, or the section that a top-level key belongs to."""
    if not prefix:
        for section, hint in hints.items():
            if key in typing.get_type_hints(hint):
                return f"; it belongs under `{section}:`"
    return suggestion(key, hints)


def _convert(value: Any, hint: Any, *, name: str) -> Any:  # noqa: ANN401
    """Check one plain value against a field's type; YAML reads `1e-3` as text, so a float may come as text."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        *words, hint = sorted((each for each in arguments if each is not type(None)), key=_is_not_a_word)
        return value if any(value in typing.get_args(each) for each in words) else _convert(value, hint, name=name)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"{name}: unknown value `{value}`{suggestion(str(value), map(str, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{name}: a list is needed, not the {_kind(value)} `{value}`")
        return tuple(_convert(item, arguments[0], name=name) for item in value)
    if hint is float and not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    wanted = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[hint]
    raise ConfigError(f"{name}: {wanted} is needed, not the {_kind(value)} `{value}`")


def _is_not_a_word(hint: object) -> bool:
    return typing.get_origin(hint) is not Literal


def _kind(value: object) -> str:
    names = {str: "text", list: "list", dict: "mapping", bool: "switch", type(None): "empty value"}
    return names.get(type(value), "number")
