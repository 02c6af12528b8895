"""Time zones by name, and what the clock of a zone shows at an instant."""

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from difflib import get_close_matches
from zoneinfo import ZoneInfo, available_timezones

import numpy as np

from gam_kg.errors import ConfigError
from gam_kg.text import quoted

UTC_NAME = "UTC"
_SAME_AS_UTC = (UTC_NAME, "Etc/UTC", "Etc/UCT", "UCT", "GMT", "Etc/GMT", "Zulu", "Z", "+00:00", "-00:00", "+0000")
_FIXED = re.compile(r"([+-])([01]\d|2[0-3]):?([0-5]\d)")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND, _DAY = timedelta(microseconds=1), 86_400_000_000
# Offsets are below a day; further out a clock would leave the years 1 to 9999.
_FIRST, _LAST = ((datetime(*day, tzinfo=UTC) - _EPOCH) // _MICROSECOND for day in ((1, 1, 2), (9999, 12, 30)))


def is_utc(name: str) -> bool:
    """Whether a zone is UTC in one of its spellings."""
    return name in _SAME_AS_UTC


def zone_name(name: str, place: str) -> str:
    """A zone that there is, with one name for all spellings of UTC; `place` is where it was named, for messages.

    Raises:
        ConfigError: There is no such zone.
    """
    if is_utc(name):
        return UTC_NAME
    try:
        zone_info(name)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None
    return name


def clock_of(instants: np.ndarray, zone: str) -> np.ndarray:
    """What the clock of a zone shows, as microseconds since its own 1970-01-01 00:00.

    Args:
        instants: Microseconds since 1970-01-01 UTC, of the years 1 to 9999; int64, (rows,).
        zone: A name that `zone_name` returned.
    """
    if zone == UTC_NAME or not len(instants):
        return instants
    found = zone_info(zone)
    days, day = np.unique(instants // _DAY, return_inverse=True)
    begin = _offsets(days * _DAY, found)
    offset = begin[day]
    # On a day on which the clock changes, each instant has its own answer.
    changing = (begin != _offsets((days + 1) * _DAY, found))[day]
    offset[changing] = _offsets(instants[changing], found)
    return instants + offset


def zone_info(name: str) -> tzinfo:
    """The time zone of a name, as Europe/Berlin, UTC or +02:00; raises ConfigError where there is none."""
    if name == UTC_NAME:
        return UTC
    if fixed := _FIXED.fullmatch(name):
        offset = timedelta(hours=int(fixed[2]), minutes=int(fixed[3]))
        return timezone(-offset if fixed[1] == "-" else offset)
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):  # an unknown name, a folder of zones, a path
        known = available_timezones()
        if not known:
            raise ConfigError(
                f"time zone {quoted(name)}: this machine has no database of time zones; install it (tzdata), or use UTC"
            ) from None
        close = get_close_matches(name[:100], known)
        meant = f" (did you mean {', '.join(close)}?)" if close else ""
        raise ConfigError(
            f"there is no time zone {quoted(name)}{meant}. Allowed: UTC, a name as "
            "Europe/Berlin, or an offset as +02:00"
        ) from None


def _offsets(instants: np.ndarray, zone: tzinfo) -> np.ndarray:
    """How far the zone's clock is ahead of UTC, in microseconds."""
    found = [
        (_EPOCH + timedelta(microseconds=instant)).astimezone(zone).utcoffset()
        for instant in np.clip(instants, _FIRST, _LAST).tolist()
    ]
    return np.array([offset // _MICROSECOND for offset in found if offset is not None], np.int64)
