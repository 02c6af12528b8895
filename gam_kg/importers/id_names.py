"""entity2id.txt and relation2id.txt: the names behind the ids of a folder."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from gam_kg.errors import DataError
from gam_kg.importers.text_file import Opening, numbered_lines
from gam_kg.ingest.names import strip_names

# As text: "007" and "+7" are not the id 7.
_ID = re.compile("0|[1-9][0-9]*")


@dataclass(frozen=True)
class IdNames:
    """Names by id, and which of the two a file of facts has.

    Attributes:
        path: The file the names come from.
        kind: "entity" or "relation".
        names: Id as it is written → name; None when there is no file, so that texts are the names.
    """

    path: Path
    kind: str
    names: dict[str, str] | None

    def read(self, texts: Sequence[str], place: Callable[[int], str]) -> tuple[list[str], tuple[str, ...]]:
        """The names that texts mean: all are ids, or all are names.

        Args:
            texts: The distinct texts in the column(s) of this kind, of all files.
            place: File and line of a text's first appearance, by its position.

        Returns:
            (name of each text, the names that got " (id N)" added because an earlier id has the same name).

        Raises:
            DataError: Both readings fit every text and differ, or neither fits.
        """
        if self.names is None:
            return [*texts], ()
        known = set(self.names.values())
        no_ids = [position for position, text in enumerate(texts) if text not in self.names]
        no_names = [position for position, text in enumerate(texts) if text not in known]
        if no_ids and no_names:
            raise self._neither(texts, no_ids, no_names, place)
        if no_ids:
            return [*texts], ()
        distinct = _distinct(self.names)
        meant = [distinct[text] for text in texts]
        if not no_names and meant != [*texts]:
            raise self._both(texts, place)
        return meant, tuple(name for number, name in distinct.items() if name != self.names[number])

    def _both(self, texts: Sequence[str], place: Callable[[int], str]) -> DataError:
        assert self.names is not None
        first = next(position for position, text in enumerate(texts) if self.names[text] != text)
        text = texts[first]
        return DataError(
            f"{place(first)}: the {self.kind} {text!r} may be a name or the id of {self.names[text]!r}, and every "
            f"{self.kind} in the files of facts is both an id and a name in {self.path}. If they are names, remove "
            f"{self.path.name}; if they are ids, write a letter in front of each name there that is a number"
        )

    def _neither(
        self, texts: Sequence[str], no_ids: list[int], no_names: list[int], place: Callable[[int], str]
    ) -> DataError:
        assert self.names is not None
        wrong, reading = (no_ids, "id") if len(no_ids) <= len(no_names) else (no_names, "name")
        return DataError(
            f"{place(wrong[0])}: {self.kind} {texts[wrong[0]]!r} is no {reading} in {self.path}, which has "
            f"{len(self.names):,} ids, though {len(texts) - len(wrong):,} of {len(texts):,} are; allowed: ids "
            "throughout or names throughout, in all files of facts. Add it there, or remove "
            f"{self.path.name} if the facts have names"
        )


def read_id_names(path: Path, kind: str, opening: Opening) -> IdNames:
    """Read entity2id.txt or relation2id.txt, which may be absent: a name and an id, in either order, in each line.

    Further columns are ignored. `kind` is "entity" or "relation", for messages.

    Raises:
        DataError: A line has no name and id, an id has two names, or either column may have the ids.
    """
    if not path.is_file():
        return IdNames(path, kind, None)
    names: dict[str, str] = {}
    for line, number, name in _choose_layout([*numbered_lines(path, opening)], path):
        if names.setdefault(number, name) != name:
            raise DataError(f"{path}, line {line}: id {number} is {name!r} here and {names[number]!r} above")
    return IdNames(path, kind, names)


def _choose_layout(lines: list[tuple[int, str]], path: Path) -> list[tuple[int, str, str]]:
    """(line, id, name) of each line, by the layout that fits all lines."""
    readings = [_read(lines, layout) for layout in (_name_first, _id_first)]
    bad = [[line for line, number, name in rows if not (name and _ID.fullmatch(number))] for rows in readings]
    if all(bad):
        line = min(bad, key=len)[0]
        found = dict(lines)[line]
        raise DataError(
            f"{path}, line {line}: found {found!r}; allowed: a name and an id (a whole number without sign or leading "
            "zeros), separated by a tab"
        )
    fitting = [rows for rows, wrong in zip(readings, bad, strict=True) if not wrong]
    if len(fitting) == 1 or fitting[0] == fitting[1]:
        return fitting[0]
    # Names may be numbers too. Ids are numbered 0, 1, 2, ... without a gap.
    numbered = [rows for rows in fitting if _are_numbered({number for _, number, _ in rows})]
    if len(numbered) != 1:
        raise DataError(
            f"{path}: either column may have the ids, since both are numbers and "
            f"{'both are' if numbered else 'neither is'} numbered 0, 1, 2, ... without a gap; remove it "
            "if the files of facts have names, and otherwise write a letter in front of each name"
        )
    return numbered[0]


def _read(lines: list[tuple[int, str]], layout: Callable[[str], tuple[str, str]]) -> list[tuple[int, str, str]]:
    cells = [layout(text) for _, text in lines]
    numbers, names = (strip_names(pa.array([row[side] for row in cells], pa.large_string())) for side in (0, 1))
    return [*zip((line for line, _ in lines), numbers.to_pylist(), names.to_pylist(), strict=True)]


def _name_first(text: str) -> tuple[str, str]:
    name, number = text.split("\t")[:2] if "\t" in text else text.rpartition(" ")[::2]
    return number, name


def _id_first(text: str) -> tuple[str, str]:
    number, name = text.split("\t")[:2] if "\t" in text else text.partition(" ")[::2]
    return number, name


def _are_numbered(ids: set[str]) -> bool:
    return ids == set(map(str, range(len(ids))))


def _distinct(names: dict[str, str]) -> dict[str, str]:
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
