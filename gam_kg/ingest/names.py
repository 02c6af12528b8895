"""Names of entities and relations: stripped, folded where the configuration says so, and compared."""

from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc

# White space, control characters, the byte order mark and the zero-width blank, at either end of a name.
_AROUND = r"^[\s\p{Z}\p{Cc}\x{FEFF}\x{200B}]+|[\s\p{Z}\p{Cc}\x{FEFF}\x{200B}]+$"
_BLANKS = r"[\s\p{Z}]+"
FOLDS = ("case", "blanks", "unicode")


def strip_names(names: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Names without surrounding white space and control characters; nulls stay."""
    return pc.replace_substring_regex(names, _AROUND, "")


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
