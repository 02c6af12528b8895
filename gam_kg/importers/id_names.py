"""entity2id.txt and relation2id.txt: the names behind the ids of a folder."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gam_kg.errors import DataError
from gam_kg.importers.text_file import INTEGER, numbered_lines


@dataclass(frozen=True)
class IdNames:
    """Names by id.

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

    def name(self, text: str) -> str:
        """The name that a file of facts means by an id, or by the name itself.

        Raises:
            DataError: The text is neither an id nor a name in the file of names.
        """
        if self.names is None:
            return text
        if INTEGER.fullmatch(text) and int(text) in self.names:
            return self.names[int(text)]
        if text in self._known:
            return text
        raise DataError(
            f"{self.kind} {text!r} is not in {self.path}, which has {len(self.names):,} ids; "
            f"add it there, or remove {self.path.name} to use ids as names"
        )

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset((self.names or {}).values())


def read_id_names(path: Path, kind: str) -> IdNames:
    """Read entity2id.txt or relation2id.txt, which may be absent: names and ids, in either order.

    The column that is an integer everywhere has the ids. `kind` is "entity" or "relation", for messages.

    Raises:
        DataError: A line has no name and id, or an id has two names.
    """
    if not path.is_file():
        return IdNames(path, kind, None)
    names: dict[int, str] = {}
    for line, name, number in _choose_layout(list(numbered_lines(path)), path):
        if names.setdefault(number, name) != name:
            raise DataError(f"{path}, line {line}: id {number} is {name!r} here and {names[number]!r} above")
    distinct = _distinct(names)
    renamed = tuple(name for number, name in distinct.items() if name != names[number])
    return IdNames(path, kind, distinct, renamed)


def _choose_layout(lines: list[tuple[int, str]], path: Path) -> list[tuple[int, str, int]]:
    """(line, name, id) of each line, by a layout that fits all lines."""
    readings = [[(line, *map(str.strip, layout(text))) for line, text in lines] for layout in _LAYOUTS]
    bad = [[line for line, name, number in rows if not (name and INTEGER.fullmatch(number))] for rows in readings]
    if all(bad):
        line = min(bad, key=len)[0]
        found = dict(lines)[line]
        raise DataError(f"{path}, line {line}: found {found!r}; allowed: a name and an integer id, separated by a tab")
    fitting = [
        [(line, name, int(number)) for line, name, number in rows]
        for rows, wrong in zip(readings, bad, strict=True)
        if not wrong
    ]
    # Names may be integers too; then the ids are those that count 0, 1, 2, ... without a gap.
    counted = (rows for rows in fitting if {number for _, _, number in rows} == set(range(len(rows))))
    return next(counted, fitting[0])


def _separator(text: str) -> str:
    return "\t" if "\t" in text else " "


# A line → name and id: the id is last, first, or second of more columns.
_LAYOUTS: list[Callable[[str], tuple[str, ...]]] = [
    lambda text: text.rpartition(_separator(text))[::2],
    lambda text: text.partition(_separator(text))[::-2],
    lambda text: (*text.split("\t"), "")[:2],
]


def _distinct(names: dict[int, str]) -> dict[int, str]:
    """The names, where all but the first id of a name get the id added to it."""
    taken, seen, distinct = set(names.values()), set(), {}
    for number, name in names.items():
        if name in seen:
            name = f"{name} (id {number})"
            while name in taken:
                name += "'"
            taken.add(name)
        seen.add(name)
        distinct[number] = name
    return distinct
