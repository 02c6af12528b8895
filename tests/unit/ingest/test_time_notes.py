import logging

import pyarrow as pa
import pytest

from gam_kg.data_config import ColumnsConfig
from gam_kg.errors import ConfigError, DataError
from gam_kg.ingest.merging import SOURCED_FACTS
from gam_kg.ingest.time_format import COMMON_FORMATS
from gam_kg.ingest.time_notes import (
    Notes,
    decide_kind,
    decide_unit,
    fitting_formats,
    report_zone,
    require_one_clock,
    require_used,
)
from gam_kg.ingest.timestamps import ISO, TimeForm
from gam_kg.ingest.validation import RENAMED, validate

FILES = ("a.parquet", "b.parquet")


def notes_of(timestamps, ends=None, source=0, form=ISO, subject="a"):
    table = pa.table({name: [subject] * len(timestamps) for name in ("subject", "relation", "object")})
    table = table.append_column("timestamp", pa.array(timestamps))
    if ends is not None:
        table = table.append_column("end_timestamp", pa.array(ends))
    good = validate(table, ColumnsConfig(), "f", 0, form=form).good
    return Notes.of(pa.table([*good.columns, pa.array([source] * len(good), pa.int32())], schema=SOURCED_FACTS))


@pytest.mark.parametrize(
    ("subject", "object", "relation", "expected"),
    [(1, 2, 3, ["entity", "relation"]), (1, 2, "r", ["entity"]), (1, "b", 3, ["relation"]), ("a", "b", "r", [])],
)
def test_integer_names_are_those_that_are_integers_in_every_column_and_file(subject, object, relation, expected):
    def notes(subject, relation, object):
        row = {"subject": [subject], "relation": [relation], "object": [object], "timestamp": [7]}
        good = validate(pa.table(row), ColumnsConfig(), "f", 0).good
        return Notes.of(pa.table([*good.columns, pa.array([0], pa.int32())], schema=SOURCED_FACTS))

    found = notes(subject, relation, object)
    assert found.integer_names == expected
    assert Notes.merge([found, notes(1, 2, 3)]).integer_names == expected
    assert Notes.merge([found, notes("1", "2", "3")]).integer_names == []


def kind(kind, *blocks, form=ISO):
    return decide_kind(kind, form, Notes.merge(blocks), FILES)


def test_integers_are_dates_where_all_of_them_are(caplog):
    with caplog.at_level(logging.INFO, "gam_kg"):
        assert kind("integer", notes_of([20240131, 20240229]), notes_of([19991231], [20001231])) == "timestamp"
    assert "data.time_format=integer" in caplog.text
    assert kind("integer", notes_of([20240131]), form=TimeForm(format="integer")) == "integer"
    for others in ([20240131, 20240230, 7, 8, 9], [1998, 1999], [1.7e9, 1.8e9], [0]):
        assert kind("integer", notes_of([int(value) for value in others])) == "integer"


@pytest.mark.parametrize("ends", [None, [20240201, 99999999]])
def test_integers_of_which_most_are_dates_are_refused_with_the_first_that_is_none(ends):
    blocks = notes_of([20240131, 20240131 if ends else 20240230], ends), notes_of([20240101], source=1)
    with pytest.raises(DataError, match=r"2 of 3 rows.*row 1 of a\.parquet.*%Y%m%d.*integer"):
        kind("integer", *blocks)


@pytest.mark.parametrize(
    ("like", "unlike"),
    [(202401, 202313), (202401312359, 202401312360), (20240229235959, 20240230000000), (10000101000000, 9999)],
)
def test_integers_that_look_like_months_or_times_are_read_as_integers_with_a_warning(caplog, like, unlike):
    assert kind("integer", notes_of([like, 202312])) == "integer"
    assert "data.time_format=%Y%m%d, %Y%m, %Y%m%d%H%M or" in caplog.text
    caplog.clear()
    assert kind("integer", notes_of([like, unlike])) == "integer"
    assert not caplog.text


@pytest.mark.parametrize(
    ("values", "warns"),
    [
        ([20140000, 20150000, 20160500, 20160101, 202401], True),  # days and months that are not known
        ([2014, 2015, 2016, 2017, 20180131], True),
        ([5, 20240131, *range(30_000_000, 30_000_019)], False),
    ],
)
def test_integers_of_which_some_are_dates_are_read_as_integers_with_a_warning(caplog, values, warns):
    assert kind("integer", notes_of(values)) == "integer"
    assert ("plain integers" in caplog.text) == warns


def test_text_with_and_without_a_zone_is_refused_with_a_row_of_each():
    zoned, plain = notes_of(["2024-01-01", "2024-01-01T00:00"]), notes_of(["2024-01-01T00:00Z"], source=1)
    require_one_clock(zoned, FILES)
    require_one_clock(plain, FILES)
    with pytest.raises(DataError, match=r"row 0 of b\.parquet has one, row 0 of a\.parquet has a timestamp without"):
        require_one_clock(Notes.merge([zoned, plain]), FILES)
    with pytest.raises(DataError, match="mixed"):
        require_one_clock(notes_of(["2024-01-01T00:00Z"], ["2024-01-02"]), FILES)


@pytest.mark.parametrize(
    ("texts", "unit"),
    [
        (["1998", "2001"], "year"),
        (["1998", "1998-05"], "month"),
        (["1998", "1998-05-01"], "auto"),
        (["19980501"], "auto"),
    ],
)
def test_auto_is_as_long_as_the_timestamps_are_precise(texts, unit):
    assert decide_unit("auto", "timestamp", notes_of(texts)) == unit
    assert decide_unit("week", "timestamp", notes_of(texts)) == "week"
    assert decide_unit("auto", "integer", notes_of([1998])) == "auto"
    assert decide_unit("auto", "timestamp", notes_of([1998, 2000], form=TimeForm(format="%Y"))) == "year"


def test_a_zone_for_integers_is_refused():
    require_used(None, "integer")
    require_used("UTC", "timestamp")
    with pytest.raises(ConfigError, match=r"data\.time_zone=UTC: the timestamps are integers"):
        require_used("UTC", "integer")


def test_changed_names_are_counted():
    assert Notes.merge([notes_of([1, 2], subject=" a"), notes_of([3])]).count(RENAMED) == 2


def test_formats_fit_where_they_read_every_text():
    texts = pa.chunked_array([["31/01/2024", None], ["1/2/2024"] * 200])
    assert fitting_formats(texts, COMMON_FORMATS) == ["%d/%m/%Y"]
    assert fitting_formats(texts.slice(1), COMMON_FORMATS) == ["%d/%m/%Y", "%m/%d/%Y"]
    assert fitting_formats(pa.array(["3 Feb 2024", "12 DEC 2024"]), COMMON_FORMATS) == ["%d %b %Y"]
    assert fitting_formats(pa.array(["02/03/24 5:07 PM"]), COMMON_FORMATS) == ["%d/%m/%y %I:%M %p", "%m/%d/%y %I:%M %p"]
    assert fitting_formats(pa.array(["202401"]), COMMON_FORMATS) == ["%Y%m", "integer"]
    assert fitting_formats(pa.array(["31012024", "1"]), COMMON_FORMATS) == ["integer"]
    assert fitting_formats(pa.array(["soon"]), COMMON_FORMATS) == []
    assert fitting_formats(pa.array(["soon", "31/01/2024", "01/02/2024"]), COMMON_FORMATS) == ["%d/%m/%Y"]
    assert fitting_formats(pa.array(["soon", "later", "31/01/2024"]), COMMON_FORMATS) == []
    late = pa.array([f"{1 + day % 12}/{1 + day % 9}/{2000 + day}" for day in range(200)] + ["13/1/2024"])
    assert fitting_formats(late, COMMON_FORMATS) == ["%d/%m/%Y"]


def test_the_zone_of_instants_is_said_where_nobody_named_it(caplog):
    caplog.set_level(logging.INFO, "gam_kg")
    report_zone(notes_of(["2024-01-01"]), None, ISO)
    report_zone(notes_of(["2024-01-01T00:00Z"]), "UTC", ISO)
    assert not caplog.text
    report_zone(notes_of(["2024-01-01T00:00Z"]), None, ISO)
    assert "clock of UTC" in caplog.text
