import pytest

from gam_kg.ingest.column_names import looks_like, respelt

COLUMNS = {"subject": "who", "timestamp": "timestamp", "end_timestamp": "end_timestamp", "split": "split"}


@pytest.mark.parametrize(
    ("column", "role"),
    [
        ("Split", "split"),
        (" split ", "split"),
        ("End Timestamp", "end_timestamp"),
        ("endTimestamp", "end_timestamp"),
        ("WHO", "subject"),
        ("Subject", None),
        ("time", None),
        ("splits", None),
    ],
)
def test_a_name_that_differs_in_its_spelling_only(column, role):
    assert respelt(column, COLUMNS) == role


@pytest.mark.parametrize(
    ("column", "role"),
    [
        ("Split", "split"),
        ("time", "timestamp"),
        ("Date", "timestamp"),
        ("end_time", "end_timestamp"),
        ("Subject", "subject"),
        ("head", "subject"),
        ("relation", None),
        ("comment", None),
        ("timetable", None),
    ],
)
def test_a_name_that_others_use_for_a_column_of_ours(column, role):
    assert looks_like(column, COLUMNS) == role
