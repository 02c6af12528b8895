"""Column names that are probably meant to be one of ours."""

import re
from collections.abc import Mapping

# What other tools call our columns; spellings are compared as `_plain` writes them.
_OTHER_NAMES = {
    "subject": "subj head source src from entity1 entity_a",
    "relation": "rel predicate pred edge edge_type relationship",
    "object": "obj tail target dst to entity2 entity_b",
    "timestamp": "time date datetime ts t day year when at start start_time start_date since valid_from begin",
    "end_timestamp": "end end_time end_date endtime until till valid_to valid_until stop",
    "split": "fold subset",
}


def respelt(column: str, columns: Mapping[str, str]) -> str | None:
    """The role that a column would have if only case, blanks and punctuation of its name were another's.

    Args:
        column: Name of a column that is not in use, for instance "Split" or "end timestamp ".
        columns: Role → name of the column that has it.

    Returns:
        The role, or None.
    """
    return next((role for role, name in columns.items() if _plain(name) == _plain(column)), None)


def looks_like(column: str, columns: Mapping[str, str]) -> str | None:
    """The role that a column seems to have by its name: one of ours in another spelling, or what others call it.

    Args:
        column: Name of a column that is not in use, for instance "time" or "Head".
        columns: Role → name of the column that has it.

    Returns:
        The role, or None.
    """
    plain = _plain(column)
    plains = {plain, plain.removesuffix("id"), plain.removesuffix("name")}
    named = (role for role in columns if plains & {*map(_plain, [role, *_OTHER_NAMES.get(role, "").split()])})
    return respelt(column, columns) or next(named, None)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()
