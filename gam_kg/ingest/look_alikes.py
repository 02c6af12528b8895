"""Names that differ by case, blanks or Unicode form only, and that users may mean to be one."""

import logging
import unicodedata

import pyarrow as pa
import pyarrow.compute as pc

from gam_kg.ingest.names import FOLDS, fold_names, look_alikes
from gam_kg.ingest.vocabulary import Vocabulary
from gam_kg.text import quoted

_GROUPS_SHOWN = 10
_NAMES_SHOWN = 5

logger = logging.getLogger("gam_kg")


def report_look_alikes(names: pa.Array, kind: str) -> int:
    """Count groups of names that differ only by case, blanks or Unicode form, and show the first of them."""
    count, groups = look_alikes(names, _GROUPS_SHOWN)
    if count:
        shown = ["  " + ", ".join(map(_shown, group[:_NAMES_SHOWN])) for group in groups]
        logger.warning(
            "%d group(s) of %s names differ only by case, blanks or Unicode form, and stay different names; "
            "data.normalize_names=[%s] makes one name of each group. The first:\n%s",
            *(count, kind, ", ".join(FOLDS), "\n".join(shown)),
        )
    return count


def report_new_look_alikes(new: pa.Array, known: Vocabulary) -> int:
    """`report_look_alikes` of new names, among themselves and with known ones.

    Of known names only the case is folded: the rest would take seconds for a million of them.
    """
    if not len(new):
        return 0
    alike = pc.is_in(pc.utf8_lower(known.names), value_set=fold_names(new, FOLDS))
    return report_look_alikes(pa.concat_arrays([known.names.filter(alike), new]), known.kind)


def _shown(name: str) -> str:
    return quoted(name) + ("" if unicodedata.is_normalized("NFC", name) else " (not in Unicode form C)")
