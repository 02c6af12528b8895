"""What the timestamps of the input are: of a file by its schema, and of all files together with the configuration."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import pyarrow as pa

from gam_kg.data_config import DataConfig
from gam_kg.errors import ConfigError, DataError
from gam_kg.ingest.text_columns import is_text
from gam_kg.ingest.time_format import INTEGER, check_format
from gam_kg.ingest.time_zones import UTC_NAME, is_utc, zone_name
from gam_kg.ingest.timestamps import TimeForm, TimeKind, time_kind

Value = TypeVar("Value", bound=str)


@dataclass(frozen=True)
class TimeType:
    """What the schema of a file, or of several, says of its timestamps.

    Attributes:
        kind: Integers, or dates, timestamps and text; None where all columns are untyped, that is, all null.
        clock: Whether columns of timestamps name instants ("zoned") or times of a clock ("plain"); None where there are
            none, as in columns of text.
        zones: Each zone of a column → the first file (or column) that has it.
        formatted: Whether there is text, or integers, that `data.time_format` could be the form of.
    """

    kind: TimeKind | None
    clock: Literal["zoned", "plain"] | None = None
    zones: Mapping[str, str] = field(default_factory=dict)
    formatted: bool = False


def time_type(data_type: pa.DataType, place: str) -> TimeType:
    """That of one column at a place."""
    if pa.types.is_dictionary(data_type):
        return time_type(data_type.value_type, place)
    kind = time_kind(data_type)
    if kind != "timestamp" or is_text(data_type):
        return TimeType(kind, formatted=kind is not None)
    zone = data_type.tz if pa.types.is_timestamp(data_type) else None
    if zone is None:
        return TimeType(kind, "plain")
    return TimeType(kind, "zoned", {UTC_NAME if is_utc(zone) else zone: place})


def require_one_time(found: Mapping[str, TimeType]) -> TimeType:
    """What all timestamps share, from what each file (or column) has.

    Raises:
        DataError: Integers and dates are mixed, or timestamps with a zone and without; names the first of each.
    """
    kinds = _first(found, lambda time: time.kind)
    if len(kinds) > 1:
        raise DataError(
            f"timestamps are integers in {kinds['integer']}, but dates in {kinds['timestamp']}; "
            "store all of them as integers, or all of them as dates, timestamps or ISO strings"
        )
    clocks = _first(found, lambda time: time.clock)
    if len(clocks) > 1:
        raise DataError(
            f"timestamps have a time zone in {clocks['zoned']}, but none in {clocks['plain']}; "
            "give all of them a zone, or none"
        )
    zones = {zone: place for time in reversed([*found.values()]) for zone, place in time.zones.items()}
    formatted = any(time.formatted for time in found.values())
    return TimeType(next(iter(kinds), None), next(iter(clocks), None), zones, formatted)


def time_form(data: DataConfig, found: TimeType) -> tuple[TimeKind | None, TimeForm]:
    """How the timestamps of the input are read, and what they are then.

    Raises:
        ConfigError: `data.time_zone` is no zone, or `data.time_format` has nothing that it could be the form of.
        DataError: Columns have several zones and `data.time_zone` is not set, or an unknown one.
    """
    if data.time_format is not None:
        check_format(data.time_format)
        # An importer may have read its texts by the format already.
        if not found.formatted and found.kind is not None and data.import_from is None:
            raise ConfigError(
                f"data.time_format={data.time_format}: the timestamps are stored as dates or timestamps, which have no "
                "format; remove it"
            )
    zones = list(found.zones)
    if data.time_zone is not None:
        zone = zone_name(data.time_zone, "data.time_zone")
    elif len(zones) > 1:
        raise DataError(
            f"timestamps are in the time zone {zones[0]} in {found.zones[zones[0]]}, but in {zones[1]} in "
            f"{found.zones[zones[1]]}; name the zone whose days divide time, for instance data.time_zone={zones[0]}"
        )
    else:
        zone = zone_name(zones[0], found.zones[zones[0]]) if zones else UTC_NAME
    return formatted_kind(found, data.time_format), TimeForm(zone, data.time_format)


def formatted_kind(found: TimeType, text_format: str | None) -> TimeKind | None:
    """What the timestamps are when they are read by `data.time_format`."""
    if found.kind is not None and text_format is not None and found.formatted:
        return "integer" if text_format == INTEGER else "timestamp"
    return found.kind


def _first(found: Mapping[str, TimeType], what: Callable[[TimeType], Value | None]) -> dict[Value, str]:
    """What is found → the first file that has it."""
    return {value: place for place, time in reversed([*found.items()]) if (value := what(time)) is not None}
