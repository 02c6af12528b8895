import pytest

from gam_kg.errors import ConfigError
from gam_kg.text import is_uri, printable, quoted, user_path


def test_control_characters_are_shown_as_escapes_and_line_ends_stay():
    assert (
        printable("a\x1b[31mb\r\x07\u202ec\nå\x9b\u2028\u200f") == "a\\x1b[31mb\\r\\x07\\u202ec\nå\\x9b\\u2028\\u200f"
    )


def test_a_lone_surrogate_can_be_printed():
    assert printable("a\ud800").encode() == b"a\\ud800"


@pytest.mark.parametrize(
    "path", ["s3://bucket/run", "file:///tmp/run", "file:/tmp/run", "s3:/bucket", "gs://b", "HTTPS://h/p"]
)
def test_a_uri_is_no_path_of_this_machine(path):
    assert is_uri(path)
    with pytest.raises(ConfigError, match=rf"^run_dir={path}: a URI is not allowed"):
        user_path(path, "run_dir")


def test_home_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/facts.parquet", "data.facts") == tmp_path / "facts.parquet"
    assert str(user_path("facts:2.parquet", "data.facts")) == "facts:2.parquet"
    with pytest.raises(ConfigError, match="no such home folder"):
        user_path("~nobody-has-this-name/x", "data.facts")


def test_quoted_values_are_short_and_printable():
    assert quoted("a\x1b") == r"'a\x1b'"
    assert quoted(None) == "None"
    assert len(quoted("x" * 10**6)) == 101
    assert quoted("é" * 3) == "'ééé'"


@pytest.mark.parametrize("path", ["", " ", "a\0b"])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(ConfigError, match=r"OUT=.*expected a path"):
        user_path(path, "OUT")
