"""Types of the values of a configuration, beyond those of Python."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from gam_kg.text import NO_URI, is_uri

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]


def _local(value: str | None) -> str | None:
    if value is not None and is_uri(value):
        raise ValueError(NO_URI)
    return value


def _place(value: str | None) -> str | None:
    if value is not None and (not value.strip() or "\0" in value):
        raise ValueError("expected a path; null for none")
    if value is not None and is_uri(value) and ":" in value.partition("//")[2].partition("/")[0].rpartition("@")[0]:
        raise ValueError("a URI must not have credentials in it; give them in the environment")
    return value


def _run_name(value: str) -> str:
    inside = Path(value).parts
    if not inside or Path(value).is_absolute() or ".." in inside or not value.isprintable() or is_uri(value):
        raise ValueError("expected a name of a folder below runs/")
    return value


Boundary = int | str | None
Separator = Annotated[str, BeforeValidator(lambda value: "\t" if value == "\\t" else value)]
Place = Annotated[str | None, AfterValidator(_place)]
LocalPath = Annotated[Place, AfterValidator(_local)]
RunName = Annotated[str, AfterValidator(_run_name)]
