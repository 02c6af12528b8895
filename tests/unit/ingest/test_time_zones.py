import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gam_kg.errors import ConfigError
from gam_kg.ingest.time_axis import CALENDAR_UNITS, TimeAxis, TimestampRange
from gam_kg.ingest.time_zones import clock_of, zone_name
from gam_kg.ingest.timestamps import TimeForm

EPOCH, MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
ZONES = random.Random(0).sample(sorted(available_timezones()), 40)
ZONES += ["Europe/Berlin", "Australia/Lord_Howe", "America/St_Johns", "Africa/Casablanca", "+05:30", "-0930", "UTC"]
zones = st.sampled_from(ZONES)
instants = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29)).map(lambda at: at.replace(tzinfo=UTC))
# On both sides of a change of the clock.
changes = st.builds(
    lambda year, month, hours: datetime(year, month, 25, tzinfo=UTC) + timedelta(hours=hours),
    *(st.integers(1890, 2100), st.sampled_from([3, 10]), st.floats(0, 200)),
)


def zone_of(name):
    if name[0] in "+-":
        return datetime.strptime(name, "%z").tzinfo
    return ZoneInfo(name)


@given(st.lists(st.one_of(instants, changes), max_size=30), zones)
def test_the_clock_of_a_zone_is_that_of_zoneinfo(found, zone):
    micros = np.array([(at - EPOCH) // MICROSECOND for at in found], np.int64)
    expected = [(at.astimezone(zone_of(zone)).replace(tzinfo=UTC) - EPOCH) // MICROSECOND for at in found]
    assert clock_of(micros, zone_name(zone, "z")).tolist() == expected


@given(st.one_of(instants, changes), instants, zones, st.sampled_from([*CALENDAR_UNITS]))
def test_snapshots_begin_on_the_clock_of_the_zone_and_their_labels_read_back(at, later, zone, unit):
    first, second = (found.astimezone(zone_of(zone)).replace(tzinfo=None) for found in (at, later))
    micros = [(found.replace(tzinfo=UTC) - EPOCH) // MICROSECOND for found in (first, second)]
    axis = TimeAxis.fit("timestamp", unit, TimestampRange.of(np.array(micros)), TimeForm(zone_name(zone, "z")))
    for instant, clock, raw in ((at, first, micros[0]), (later, second, micros[1])):
        snapshot = int(axis.snapshot(np.array([raw]))[0])
        assert axis.parse(instant) == axis.parse(clock) == axis.parse(clock.isoformat()) == snapshot
        label = axis.label(snapshot)
        if unit != "week":
            assert clock.isoformat().startswith(label.removesuffix(":00"))
        assert axis.parse_start(label, "key") == snapshot


def test_days_begin_at_midnight_of_the_zone():
    axis = TimeAxis("timestamp", "day", 0, "Europe/Berlin")
    assert axis.label(axis.parse("2024-03-30T22:59:59Z")) == "2024-03-30"
    assert axis.label(axis.parse("2024-03-30T23:00Z")) == "2024-03-31"
    assert axis.label(axis.parse("2024-03-31T22:00Z")) == "2024-04-01"  # an hour earlier in summer
    assert axis.parse_start("2024-03-30T23:00Z", "key") == axis.parse_start("2024-03-31", "key")


@pytest.mark.parametrize("name", ["Z", "+00:00", "Etc/UTC", "GMT"])
def test_all_spellings_of_utc_are_one_zone(name):
    assert zone_name(name, "data.time_zone") == "UTC"


@pytest.mark.parametrize("name", ["Mars/Base", "Europe", "../etc/passwd", "/etc/passwd", "", "+25:00", "x" * 10**6])
def test_a_zone_that_is_none_is_refused(name):
    with pytest.raises(ConfigError, match=r"data\.time_zone: there is no time zone .*Europe/Berlin") as error:
        zone_name(name, "data.time_zone")
    assert len(str(error.value)) < 400


def test_a_misspelt_zone_is_refused_with_the_closest_names():
    with pytest.raises(ConfigError, match="Europe/Berlin"):
        zone_name("europe/berlin", "data.time_zone")


def test_a_machine_without_zones_is_named_as_the_reason(monkeypatch):
    monkeypatch.setattr("gam_kg.ingest.time_zones.available_timezones", set)
    with pytest.raises(ConfigError, match="no database of time zones; install it"):
        zone_name("Nowhere/None", "data.time_zone")
