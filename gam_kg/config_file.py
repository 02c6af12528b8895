"""Configuration as text: YAML files and `a.b=value` overrides are read, mistakes explained, and defaults written."""

import difflib
import os
import re
import reprlib
import textwrap
from collections.abc import Hashable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from gam_kg.errors import ConfigError
from gam_kg.text import user_path

_COMMENT_COLUMN, _LINE_LENGTH = 29, 120
_MOST_BYTES = 2**20
_BRANCHES = ("int", "str", "constrained-int")  # of unions
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200
_HERE = Path(__file__).parent
# Those that come with gam-kg: as they are installed, or in a checkout.
CONFIGS = folder if (folder := _HERE / "configs").is_dir() else _HERE.parent / "configs"
CONFIG_NAMES = sorted(file.stem for file in CONFIGS.glob("*.yaml"))
_HEADER = """\
# Every key with its default and description; other files have only what differs.
# Generated from gam_kg/config.py: python -m gam_kg.config > configs/base.yaml
"""


class Section(BaseModel):
    """A part of a configuration: unknown keys are refused, values are validated and do not change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, coerce_numbers_to_str=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth(cls, value: Any, info: ValidationInfo) -> Any:
        """Only a field that is true or false takes true and false, which would be 1 and 0 otherwise."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError(f"{str(value).lower()} is not allowed here")
        return value

    def to_yaml(self) -> str:
        """All keys and values, without comments."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


AnySection = TypeVar("AnySection", bound=Section)


class _Loader(yaml.SafeLoader):
    """YAML in which a value has one meaning: 010, 1_000, 12:30:00, no, 1.10 and 2014-11-30 are text.

    YAML 1.1 reads them as 8, 1000, 45000, false, 1.1 and a date. Numbers with a fraction are read from the text by the
    fields that have them. A key that is there twice is refused.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"key {key.value!r} is there twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", r"[-+]?(0|[1-9][0-9]{0,999})", [*"-+0123456789"]),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def validated(section: type[AnySection], values: dict[str, Any], source: str | Path) -> AnySection:
    """The section with these values, nested for sections within it; `source` names them in messages.

    Raises:
        ConfigError: A key is unknown or a value not allowed; the message has all of them.
    """
    try:
        return section.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, section, source)) from None


def find_config(given: str) -> Path:
    """The file of a configuration: the user's own or, where there is no such file, one that comes with gam-kg.

    Args:
        given: A path. That of one that comes with gam-kg may be `demo` or `configs/demo.yaml`, from any folder.

    Raises:
        ConfigError: It is no path, or there is no such file.
    """
    file = user_path(given, "CONFIG")
    for name in CONFIG_NAMES:
        if given in (name, f"configs/{name}.yaml") and not os.path.isfile(file):
            return CONFIGS / f"{name}.yaml"
    try:
        file.stat()
    except FileNotFoundError:
        raise ConfigError(
            f"cannot read the config {file}: there is no such file or folder of a run, and none that comes with "
            f"gam-kg: {', '.join(CONFIG_NAMES)} (in {CONFIGS})"
        ) from None
    except OSError:
        pass  # reading it says why
    return file


def read_yaml(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The values of a file, over those of the file it names under `extends`.

    Raises:
        ConfigError: A file is missing or no YAML with keys, or files extend each other.
    """
    if path in seen:
        raise ConfigError(f"{path}: 'extends' comes back to this file; remove the circle")
    try:
        with path.open("rb") as file:
            found = file.read(_MOST_BYTES + 1)
        if len(found) > _MOST_BYTES:
            raise ConfigError(f"{path} is no configuration: it has more than {_MOST_BYTES:,} bytes")
        values = _load(found.decode("utf-8-sig")) or {}
    except OSError as error:
        raise ConfigError(f"cannot read the config {path}: {error.strerror}") from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} is not valid YAML in UTF-8: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys and values at the top, found {type(values).__name__}")
    if (base := values.pop("extends", None)) is None:
        return values
    if not isinstance(base, str):
        raise ConfigError(f"{path}: 'extends' must name a YAML file, found {base!r}")
    inherited = read_yaml(path.parent / user_path(base, f"{path}: extends"), (*seen, path))
    inherited.pop("name", None)  # each file has its own name
    return _merge(inherited, values)


def require_own_folder(file: Path, run: Path) -> None:
    """Refuse config.yaml of a run that was copied or moved, since it names the folder where the run was made.

    Raises:
        ConfigError: The file is in another run than the one that it names.
    """
    folder, named = file.parent.resolve(), run.resolve()
    if file.name == "config.yaml" and (folder / "graph" / "manifest.json").exists() and named != folder:
        raise ConfigError(f"{file} names another run folder, {named}; give run_dir={folder}, or run_dir={named}")


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set one `a.b=value` among the values.

    Raises:
        ConfigError: It is no key and value, or `a` has a value.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r}: expected key=value, for instance train.epochs=3")
    if not text:
        raise ConfigError(f"override {override!r}: there is no value after =; write {override}null for none")
    *parents, last = key.strip().split(".")
    for parent in parents:
        child = values.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"override {override!r}: {parent!r} has the value {child!r} and no keys of its own")
        values = child
    try:
        value = _override_value(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"override {override!r}: the value is not valid YAML: {error}") from None
    before = values.get(last)
    values[last] = _merge(before, value) if isinstance(before, dict) and isinstance(value, dict) else value


def _override_value(text: str) -> Any:
    """A list, keys with values or quoted text as YAML has them; else a whole number, true, false, null or text.

    So a glob or a separator, to whose characters YAML gives a meaning, need no quotes.
    """
    stripped = text.strip() or text
    if stripped.startswith(("[", "{")) or (stripped.startswith(('"', "'")) and len(stripped) > 1):
        with suppress(yaml.YAMLError):  # as [x].csv
            return _load(stripped)
    if len(stripped) == 1 and not stripped.isalnum():
        return stripped
    loader = _Loader("")
    tag = loader.resolve(yaml.ScalarNode, stripped, (True, False))
    return loader.construct_object(yaml.ScalarNode(tag, stripped))


def _load(text: str) -> Any:
    return yaml.load(text, _Loader)  # a safe one


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
        parts = [str(part) for part in problem["loc"] if part not in _BRANCHES and "[" not in str(part)]
        found = "" if isinstance(problem["input"], (dict, BaseModel)) else f" (found {_SHORT.repr(problem['input'])})"
        message = problem["msg"].removeprefix("Value error, ") + found
        if problem["type"] == "extra_forbidden":
            message = f"unknown key; {_closest(problem['loc'], section)}{_allowed_keys(problem['loc'], section)}"
        elif problem["type"] == "model_type":
            message = f"expected keys with values{found}"
        lines.append("  " + ": ".join([*filter(None, [".".join(parts)]), message]))
    return "\n".join(lines)


def _closest(location: tuple[int | str, ...], section: type[BaseModel]) -> str:
    """A question after the key that may be meant; empty where none is like the one that was given."""
    keys, given = list(_dotted_keys(section)), ".".join(map(str, location))
    same = [key for key in keys if key.rpartition(".")[2] == location[-1]]
    found = same if len(same) == 1 else difflib.get_close_matches(given, keys, 1, 0.75)
    return f"did you mean {found[0]}? " if found else ""


def _dotted_keys(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _dotted_keys(field.annotation, f"{prefix}{name}.")


def _allowed_keys(location: tuple[int | str, ...], section: type[BaseModel]) -> str:
    for part in location[:-1]:
        annotation = section.model_fields[str(part)].annotation
        assert isinstance(annotation, type)
        section = annotation
    return f"allowed here: {', '.join(section.model_fields)}"
