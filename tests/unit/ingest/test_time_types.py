import pyarrow as pa
import pytest

from gam_kg.data_config import DataConfig
from gam_kg.errors import ConfigError, DataError
from gam_kg.ingest.time_types import TimeType, require_one_time, time_form, time_type
from gam_kg.ingest.timestamps import TimeForm

PLAIN, TEXT, BERLIN = pa.timestamp("us"), pa.string(), pa.timestamp("us", "Europe/Berlin")


def of(*types):
    return require_one_time(
        {f"{number}.parquet": time_type(found, f"{number}.parquet") for number, found in enumerate(types)}
    )


def test_kinds_must_agree_between_files():
    assert of(pa.null(), pa.int8()).kind == "integer"
    assert of(pa.null(), pa.date32(), TEXT).kind == "timestamp"
    assert of(pa.null()) == TimeType(None)
    with pytest.raises(DataError, match=r"integers in 1\.parquet.*dates in 2\.parquet"):
        of(pa.null(), pa.int64(), pa.date32(), pa.int32())


@pytest.mark.parametrize("plain", [PLAIN, pa.date32(), pa.date64()])
def test_timestamps_with_and_without_a_zone_are_refused_together(plain):
    with pytest.raises(DataError, match=r"a time zone in 1\.parquet, but none in 0\.parquet"):
        of(plain, BERLIN)
    assert of(plain, TEXT).clock == "plain"


def test_the_zone_is_the_configured_one_or_that_of_the_columns_or_utc():
    assert time_form(DataConfig(), of(PLAIN, TEXT)) == ("timestamp", TimeForm("UTC"))
    assert time_form(DataConfig(), of(BERLIN, TEXT)) == ("timestamp", TimeForm("Europe/Berlin"))
    assert time_form(DataConfig(), of(pa.dictionary(pa.int8(), BERLIN)))[1].zone == "Europe/Berlin"
    for found in (of(PLAIN), of(BERLIN), of(BERLIN, pa.timestamp("s", "UTC"))):
        assert time_form(DataConfig(time_zone="Asia/Tokyo"), found)[1].zone == "Asia/Tokyo"
    with pytest.raises(ConfigError, match=r"data\.time_zone: .*Asia/Tokio.*Asia/Tokyo"):
        time_form(DataConfig(time_zone="Asia/Tokio"), of(PLAIN))
    with pytest.raises(ConfigError, match=r"0\.parquet: there is no time zone 'Nowhere'"):
        time_form(DataConfig(), of(pa.timestamp("s", "Nowhere")))


def test_two_zones_are_refused_by_their_names_and_spellings_of_utc_are_one():
    utc = [pa.timestamp("us", name) for name in ("UTC", "Etc/UTC", "+00:00")]
    assert time_form(DataConfig(), of(*utc))[1].zone == "UTC"
    with pytest.raises(
        DataError, match=r"Europe/Berlin in 1\.parquet, but in UTC in 0\.parquet.*data\.time_zone=|UTC in 0"
    ):
        time_form(DataConfig(), of(utc[1], BERLIN))


def test_a_format_is_of_text_and_integers_and_refused_where_there_are_none():
    dates, plain = DataConfig(time_format="%Y%m%d"), DataConfig(time_format="integer")
    assert time_form(dates, of(pa.int64())) == ("timestamp", TimeForm("UTC", "%Y%m%d"))
    assert time_form(dates, of(TEXT, PLAIN))[0] == "timestamp"
    assert time_form(plain, of(TEXT))[0] == time_form(plain, of(pa.int64()))[0] == "integer"
    assert time_form(plain, of(pa.null()))[0] is None
    for config in (dates, plain):
        with pytest.raises(ConfigError, match=r"data\.time_format=.*remove it"):
            time_form(config, of(PLAIN))
    with pytest.raises(ConfigError, match=r"data\.time_format='%Q'"):
        time_form(DataConfig(time_format="%Q"), of(TEXT))
