"""Words with weights, made of the columns of entity features: one for each category, word and number.

What is used of a column, and how numbers are scaled, follows from entities with facts in train alone: nothing is known
of later ones.
"""

import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gam_kg.ingest.names import split_words
from gam_kg.schemas import ENTITY_FEATURES

FILE = "entity_features.parquet"
"""The file of a `graph/` artifact that has the ENTITY_FEATURES, where there are some."""
MIN_ENTITIES = 2
"""Words that fewer known entities have are not used."""
MOST_CATEGORIES = 0.1
"""A column of strings whose distinct values are at most this share of its values has categories, blanks or not."""
FARTHEST = 5.0
"""Numbers are cut at so many standard deviations from the mean."""


@dataclass(frozen=True)
class Strings:
    """The strings of a column, those that are missing left out.

    Attributes:
        row: Row of each, (num_strings,).
        text: The strings, large_string (num_strings,).
        in_lists: Whether a row may have several.
    """

    row: np.ndarray
    text: pa.Array
    in_lists: bool

    def kind(self, known: np.ndarray) -> str | None:
        """What they are by those of known rows, "category" or "text"; None where these have none."""
        some = self.text.filter(pa.array(known[self.row]))
        if not len(some) or self.in_lists:
            return "category" if len(some) else None
        have_blanks = pc.any(pc.match_substring_regex(some, r"\s")).as_py()
        return "text" if have_blanks and pc.count_distinct(some).as_py() > MOST_CATEGORIES * len(some) else "category"

    def words(self, column: str, known: np.ndarray) -> pa.Table:
        """Those that known rows share, each once a row and of equal weight, as ENTITY_FEATURES by row."""
        row, texts = self.row, self.text
        if self.kind(known) == "text":
            words = [_text_words(text) for text in texts.to_pylist()]
            row = np.repeat(row, [len(one) for one in words])
            texts = pa.array([word for one in words for word in one], pa.large_string())
        prefix, nothing = (pa.scalar(text, pa.large_string()) for text in (f"{column} = ", ""))
        features = pc.binary_join_element_wise(prefix, texts, nothing)
        distinct = pa.table({"row": row, "feature": features}).group_by(["row", "feature"]).aggregate([])
        found = pa.table([*distinct.columns, np.ones(len(distinct))], schema=ENTITY_FEATURES)
        return mean_weights(only(found, shared_words(found, known)))


def number_words(column: str, values: np.ndarray, known: np.ndarray) -> tuple[pa.Table, dict[str, float] | None]:
    """A column of numbers, of which each has the same word, weighted by the number.

    Args:
        column: Its name.
        values: Its numbers, NaN where missing, (num_rows,).
        known: Which rows are of entities with facts in train, bool (num_rows,).

    Returns:
        ENTITY_FEATURES by row, and mean and standard deviation; nothing and None where known numbers do not differ.
    """
    (rows,) = np.nonzero(~np.isnan(values))
    of_known = values[known & ~np.isnan(values)]
    # In units of the greatest, so that squares of great numbers do not overflow.
    unit = np.abs(of_known).max(initial=0) or 1.0
    mean, std = ((of_known / unit).mean(), (of_known / unit).std()) if len(of_known) else (0.0, 0.0)
    if std == 0:
        return ENTITY_FEATURES.empty_table(), None
    with np.errstate(over="ignore"):
        weight = np.clip((values[rows] / unit - mean) / std, -FARTHEST, FARTHEST)
    # No category ends as this does, and no word of a name has a blank.
    features = pa.repeat(pa.scalar(f"{column} =", pa.large_string()), len(rows))
    scale = {"mean": float(mean * unit), "std": float(std * unit)}
    return pa.table([rows, features, weight], schema=ENTITY_FEATURES), scale


def shared_words(features: pa.Table, known: Sequence[bool] | np.ndarray | None = None) -> list[str]:
    """The words in ENTITY_FEATURES that at least `MIN_ENTITIES` known entities have, sorted; None: all are known."""
    if known is not None:
        features = features.filter(pa.array(np.asarray(known, bool)[features["entity_id"].to_numpy()]))
    counts = features.group_by("feature").aggregate([([], "count_all")])
    return sorted(counts.filter(pc.field("count_all") >= MIN_ENTITIES)["feature"].to_pylist())


def only(features: pa.Table, words: Sequence[str]) -> pa.Table:
    """ENTITY_FEATURES of some words."""
    return features.filter(pc.is_in(features["feature"], pa.array(words, pa.large_string())))


def mean_weights(features: pa.Table) -> pa.Table:
    """ENTITY_FEATURES weighted so that those of an entity are averaged."""
    entity = features["entity_id"].to_numpy()
    return features.set_column(2, ENTITY_FEATURES.field("weight"), pa.array(1 / np.bincount(entity)[entity]))


def _text_words(text: str) -> set[str]:
    return {word.strip(string.punctuation) for word in split_words(text)} - {""}
