"""Names of entities and relations: stripped, folded where the configuration says so, compared, and split into words."""

import re
from collections.abc import Collection

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# White space, control characters, the zero-width blank and the byte order mark: their code points.
_AROUND = (*range(0x21), *range(0x7F, 0xA1), 0x1680, *range(0x2000, 0x200C), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000)
_AROUND_CHARACTERS = "".join(map(chr, (*_AROUND, 0xFEFF)))
_BLANKS = r"[\s\p{Z}]+"
_SEPARATORS = re.compile(r"[\s_(),]+")
FOLDS = ("case", "blanks", "unicode")


def clean_names(names: pa.Array | pa.ChunkedArray, folds: Collection[str]) -> pa.Array | pa.ChunkedArray:
    """Names as the graph has them: stripped, then folded by `data.normalize_names`; nulls stay."""
    return fold_names(strip_names(names), folds)


def strip_names(names: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Names without surrounding white space and control characters; nulls stay."""
    return pc.utf8_trim(names, characters=_AROUND_CHARACTERS)


def strip_cells(texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Cells of a table without surrounding white space and control characters; null where nothing is left."""
    texts = strip_names(texts)
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, texts.type), texts)


def fold_names(names: pa.Array | pa.ChunkedArray, folds: Collection[str]) -> pa.Array | pa.ChunkedArray:
    """Names in one spelling for all that differ in the given respects only.

    Args:
        names: Strings; nulls stay.
        folds: Some of "case" (lower case), "blanks" (each run of white space is one blank) and "unicode" (NFC).
    """
    if "unicode" in folds:
        names = pc.utf8_normalize(names, form="NFC")
    if "blanks" in folds:
        names = pc.replace_substring_regex(names, _BLANKS, " ")
    return pc.utf8_lower(names) if "case" in folds else names


def as_integers(names: pa.Array) -> pa.Array:
    """Names as int64, if that is so of all of them to the last digit; else as they are."""
    try:
        numbers = names.cast(pa.int64())
    except pa.ArrowInvalid:
        return names
    return numbers if numbers.cast(names.type).equals(names) else names


def split_words(text: str) -> set[str]:
    """The words of a name or text, divided at blanks, underscores, brackets and commas; case is ignored."""
    return {part for part in _SEPARATORS.split(text.casefold()) if part}


def look_alikes(names: pa.Array, show: int) -> tuple[int, list[list[str]]]:
    """Groups of distinct names that differ only by case, blanks or Unicode form.

    Args:
        names: Distinct strings.
        show: Groups to return, at most.

    Returns:
        (number of groups, the names of the first groups in the order of their first names).
    """
    group = fold_names(names, FOLDS).dictionary_encode().indices.to_numpy()
    size = np.bincount(group)
    first = np.flatnonzero(size > 1)
    return len(first), [names.filter(pa.array(group == number)).to_pylist() for number in first[:show]]
