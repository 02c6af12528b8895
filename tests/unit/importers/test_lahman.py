import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gam_kg.errors import DataError
from gam_kg.importers import lahman
from gam_kg.importers.dispatch import import_facts
from gam_kg.ingest.names import strip_names


@pytest.fixture(scope="module")
def facts():
    return lahman.lahman_facts()


def test_totals(facts):
    assert len(facts) == 149186
    assert len(set(facts["subject"]) | set(facts["object"])) == 21536
    assert set(facts["relation"]) == set(lahman.RELATIONS)
    assert len(lahman.RELATIONS) == 22
    assert facts["timestamp"].agg(["min", "max", "nunique"]).tolist() == [1871, 2020, 150]


def test_clean(facts):
    assert not facts.isna().any(axis=None)
    assert not facts.duplicated().any()
    for column in ("subject", "relation", "object"):
        names = pa.array(facts[column], pa.large_string())
        assert strip_names(names).equals(names)
        assert facts[column].ne("").all()
    assert facts["subject"].ne(facts["object"]).all()


@pytest.mark.parametrize(
    "fact",
    [
        ("Babe Ruth", "plays_pitcher_for", "Boston Red Sox", 1918),
        ("Babe Ruth", "plays_left_field_for", "Boston Red Sox", 1918),
        ("Babe Ruth", "plays_right_field_for", "New York Yankees", 1927),
        ("Babe Ruth", "inducted_to_hall_of_fame_by", "Baseball Writers' Association of America", 1936),
        ("Jackie Robinson", "plays_first_base_for", "Los Angeles Dodgers", 1947),
        ("Jackie Robinson", "wins_award", "Rookie of the Year", 1947),
        ("Connie Mack", "manages", "Oakland Athletics", 1901),
        ("Warren Spahn", "all_star_for", "Atlanta Braves", 1953),
        ("Chicago Cubs", "plays_home_at", "Wrigley Field (Chicago, IL)", 2016),
        ("Chicago Cubs", "competes_in", "National League", 2016),
        ("Chicago Cubs", "wins_pennant_of", "National League", 2016),
        ("Chicago Cubs", "beats_in_world_series", "Cleveland Indians", 2016),
        ("Los Angeles Dodgers", "beats_in_playoff", "Atlanta Braves", 2020),
        ("Terry Francona", "manages", "Boston Red Sox", 2004),
        ("Barry Bonds", "plays_college_at", "Arizona State University", 1985),
    ],
)
def test_famous_facts(facts, fact):
    found = facts
    for column, value in zip(found.columns, fact, strict=True):
        found = found[found[column] == value]
    assert len(found) == 1


def test_names_are_distinct(facts):
    teams = set(facts.loc[facts["relation"] == "competes_in", "subject"])
    assert len(teams) == 120
    assert {"Baltimore Orioles", "Baltimore Orioles (1882-1899)", "Boston Reds (1884)"} <= teams
    people = set(facts["subject"])
    assert {"Ken Griffey (1950)", "Ken Griffey (1969)"} <= people
    assert "Ken Griffey" not in people


def test_drawn_series_has_no_winner(facts):
    series = facts[facts["relation"] == "beats_in_world_series"]
    assert not series["timestamp"].isin([1885, 1890]).any()


def test_since_1950(tmp_path, facts):
    out = tmp_path / "facts.parquet"
    summary = import_facts("lahman:1950", out)
    table = pq.read_table(out)
    year = table["timestamp"].to_numpy()
    assert summary.num_facts == len(table) == 103362
    assert (summary.num_entities, summary.num_relations) == (13431, 22)
    parts = [int(((year >= first) & (year < last)).sum()) for first, last in ((1950, 2009), (2009, 2015), (2015, 2021))]
    assert parts == [82889, 10225, 10248]
    assert table.column_names == ["subject", "relation", "object", "timestamp"]
    assert table.schema.metadata[b"gam_kg.license"].startswith(b"CC BY-SA 3.0")
    assert b"Sean Lahman" in table.schema.metadata[b"gam_kg.attribution"]
    # The same entity has the same name whatever the first year.
    assert table.to_pandas().equals(facts[facts["timestamp"] >= 1950].reset_index(drop=True))


def test_package_is_not_imported(tmp_path):
    """The package reads every table when it is imported; an import of facts reads its files alone. A process of its
    own, because anything else in this one may have imported it."""
    code = (
        "import sys; from pathlib import Path; from gam_kg.importers.dispatch import import_facts; "
        "import_facts('lahman', Path('facts.parquet')); sys.exit('lahman' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0
    assert (tmp_path / "facts.parquet").is_file()


def test_not_installed(monkeypatch, tmp_path):
    monkeypatch.setattr(lahman, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install 'gam-kg\[demo\]'"):
        import_facts("lahman", tmp_path / "facts.parquet")


@pytest.mark.parametrize("source", ["lahman:1066", "lahman:2021", "lahman:soon", "lahman:"])
def test_years_out_of_range(source, tmp_path):
    with pytest.raises(DataError, match="year"):
        import_facts(source, tmp_path / "facts.parquet")
    assert not list(tmp_path.iterdir())
