"""entity2id.txt and relation2id.txt: the names behind the ids of a folder."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gam_kg.data.text_file import INTEGER, numbered_lines
from gam_kg.errors import DataError

Row = tuple[int, str, str]


@dataclass(frozen=True)
class IdNames:
    """Names by id, in a form that files of facts can be read with.

    Attributes:
        path: The file the names come from.
        kind: "entity" or "relation".
        names: Id → distinct name; None when there is no file, so that ids are the names.
        renamed: The names that got " (id N)" added because an earlier id has the same name.
    """

    path: Path
    kind: str
    names: dict[int, str] | None
    renamed: tuple[str, ...] = ()

    def name(self, token: str, path: Path, line: int) -> str:
        """Name of what a file of facts calls `token`: an id, or a name itself.

        Raises:
            DataError: The token is neither an id nor a name in the file of names.
        """
        if self.names is None:
            return token
        if INTEGER.fullmatch(token) and int(token) in self.names:
            return self.names[int(token)]
        if token in self._known:
            return token
        raise DataError(
            f"{path}, line {line}: {self.kind} {token!r} is not in {self.path}, which has {len(self.names):,} ids; "
            f"add it there, or remove {self.path.name} to use ids as names"
        )

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset((self.names or {}).values())


def read_id_names(path: Path, kind: str) -> IdNames:
    """Read a file of names and ids, in either order; the column that is an integer everywhere holds the ids.

    Args:
        path: entity2id.txt or relation2id.txt; may be absent.
        kind: "entity" or "relation", for messages.

    Raises:
        DataError: A line has no name and id, or an id stands twice with different names.
    """
    if not path.is_file():
        return IdNames(path, kind, None)
    lines = list(numbered_lines(path))
    rows = _choose_columns(lines, path)
    names: dict[int, str] = {}
    for line, name, token in rows:
        if names.setdefault(int(token), name) != name:
            raise DataError(f"{path}, line {line}: id {token} is {name!r} here and {names[int(token)]!r} above")
    distinct, renamed = _make_distinct(names)
    return IdNames(path, kind, distinct, renamed)


def _choose_columns(lines: list[tuple[int, str]], path: Path) -> list[Row]:
    layouts: list[Callable[[str], tuple[str, str]]] = [_id_last, _id_first, _id_second]
    readings = [[(line, *layout(text)) for line, text in lines] for layout in layouts]
    bad = [[index for index, row in enumerate(rows) if not _is_row(row)] for rows in readings]
    whole = [rows for rows, failed in zip(readings, bad, strict=True) if not failed]
    # Names may be integers as well; then ids are what counts 0, 1, 2, ... without a gap.
    counted = [rows for rows in whole if {int(token) for _, _, token in rows} == set(range(len(rows)))]
    if whole:
        return (counted or whole)[0]
    line, text = lines[min(bad, key=len)[0]]
    raise DataError(f"{path}, line {line}: found {text!r}; allowed: a name and an integer id, separated by a tab")


def _is_row(row: Row) -> bool:
    _, name, token = row
    return bool(name) and INTEGER.fullmatch(token) is not None


def _id_last(text: str) -> tuple[str, str]:
    name, _, token = text.rpartition("\t") if "\t" in text else text.rpartition(" ")
    return name.strip(), token.strip()


def _id_first(text: str) -> tuple[str, str]:
    token, _, name = text.partition("\t") if "\t" in text else text.partition(" ")
    return name.strip(), token.strip()


def _id_second(text: str) -> tuple[str, str]:
    name, token, *_ = (*text.split("\t"), "", "")
    return name.strip(), token.strip()


def _make_distinct(names: dict[int, str]) -> tuple[dict[int, str], tuple[str, ...]]:
    taken = set(names.values())
    seen: set[str] = set()
    renamed = []
    distinct = {}
    for number, name in names.items():
        if name in seen:
            name = f"{name} (id {number})"
            while name in taken:
                name += "'"
            taken.add(name)
            renamed.append(name)
        seen.add(name)
        distinct[number] = name
    return distinct, tuple(renamed)
