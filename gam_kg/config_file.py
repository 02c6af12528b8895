"""Configuration as text: YAML files and `a.b=value` overrides are read, mistakes explained, and defaults written."""

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from gam_kg.errors import ConfigError

_COMMENT_COLUMN, _LINE_LENGTH = 29, 120
_HEADER = """\
# Every key with its default and description; other files have only what differs.
# Generated from gam_kg/config.py: python -m gam_kg.config > configs/base.yaml
"""


class Section(BaseModel):
    """A part of a configuration: unknown keys are refused, values are validated and do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    def to_yaml(self) -> str:
        """All keys and values, without comments."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


AnySection = TypeVar("AnySection", bound=Section)


def validated(section: type[AnySection], values: dict[str, Any], source: str | Path) -> AnySection:
    """The section with these values, nested for sections within it; `source` names them in messages.

    Raises:
        ConfigError: A key is unknown or a value not allowed; the message has all of them.
    """
    try:
        return section.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, section, source)) from None


def read_yaml(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The values of a file, over those of the file it names under `extends`.

    Raises:
        ConfigError: A file is missing or no YAML with keys, or files extend each other.
    """
    if path in seen:
        raise ConfigError(f"{path}: 'extends' comes back to this file; remove the circle")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ConfigError(f"cannot read the config {path}: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} is not valid YAML in UTF-8: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys and values at the top, found {type(values).__name__}")
    if (base := values.pop("extends", None)) is None:
        return values
    if not isinstance(base, str):
        raise ConfigError(f"{path}: 'extends' must name a YAML file, found {base!r}")
    inherited = read_yaml(path.parent / base, (*seen, path))
    inherited.pop("name", None)  # each file has its own name
    return _merge(inherited, values)


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set one `a.b=value` among the values.

    Raises:
        ConfigError: It is no key and YAML value, or `a` has a value.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r}: expected key=value, for instance train.epochs=3")
    *parents, last = key.strip().split(".")
    for parent in parents:
        child = values.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"override {override!r}: {parent!r} has the value {child!r} and no keys of its own")
        values = child
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not valid YAML: {error}") from None


def base_file(defaults: Section) -> str:
    """YAML of all keys with their defaults, each with its field's description as a comment."""
    return "\n".join([_HEADER.rstrip(), *_commented(defaults)]) + "\n"


def _commented(section: Section, indent: str = "") -> Iterator[str]:
    for name, field in type(section).model_fields.items():
        value, comment = getattr(section, name), field.description or ""
        if isinstance(value, Section):
            yield from [""] if not indent else []
            yield from _entry(f"{indent}{name}:", comment)
            yield from _commented(value, indent + "  ")
        else:
            pair = yaml.safe_dump(section.model_dump(mode="json", include={name}), default_flow_style=True)
            yield from _entry(indent + pair.strip()[1:-1], comment)


def _entry(text: str, comment: str) -> list[str]:
    first, rest = f"{text:<{_COMMENT_COLUMN - 2}}  # ", " " * _COMMENT_COLUMN + "# "
    return textwrap.wrap(comment, _LINE_LENGTH, initial_indent=first, subsequent_indent=rest)


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    nested = {key for key, value in above.items() if isinstance(value, dict) and isinstance(below.get(key), dict)}
    return below | above | {key: _merge(below[key], above[key]) for key in nested}


def _explain(error: ValidationError, section: type[Section], source: str | Path) -> str:
    lines = [f"{source}: {error.error_count()} problem(s)"]
    for problem in error.errors():
        # The branch of a union is in the location too: int, or literal[...].
        parts = [str(part) for part in problem["loc"] if part not in ("int", "str") and "[" not in str(part)]
        found = "" if isinstance(problem["input"], (dict, BaseModel)) else f" (found {problem['input']!r})"
        message = problem["msg"].removeprefix("Value error, ") + found
        if problem["type"] == "extra_forbidden":
            message = f"unknown key; {_allowed_keys(problem['loc'], section)}"
        lines.append("  " + ": ".join([*filter(None, [".".join(parts)]), message]))
    return "\n".join(lines)


def _allowed_keys(location: tuple[int | str, ...], section: type[BaseModel]) -> str:
    for part in location[:-1]:
        annotation = section.model_fields[str(part)].annotation
        assert isinstance(annotation, type)
        section = annotation
    return f"allowed here: {', '.join(section.model_fields)}"
