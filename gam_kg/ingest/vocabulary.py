"""Vocabulary: strings to ids and back. Ids descend in use, ties in name order: they depend on the facts alone."""

import difflib
import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pandas.util import hash_pandas_object

from gam_kg.errors import DataError
from gam_kg.schemas import ENTITIES, RELATIONS, table_schema
from gam_kg.text import quoted

TALLY = table_schema({"name": pa.large_string(), "count": pa.int64(), "first": pa.int64()})

_SHORTLIST = 1000
_LEAST_LIKENESS = 0.5
_NAMED_IN_ERRORS = 5


class Vocabulary:
    """Names by id.

    Args:
        names: Distinct names in the order of their ids.
        kind: "entity" or "relation", for messages.
    """

    def __init__(self, names: pa.Array | pa.ChunkedArray, kind: str = "entity") -> None:
        self.names = _large_strings(names)
        self.kind = kind

    @classmethod
    def from_table(cls, table: pa.Table) -> "Vocabulary":
        """From an ENTITIES or RELATIONS table (or an embeddings table with the same name and id columns).

        Raises:
            DataError: The ids are not 0, 1, 2, ... in order.
        """
        kind = "entity" if "entity" in table.column_names else "relation"
        if not np.array_equal(table[f"{kind}_id"].to_numpy(), np.arange(len(table))):
            raise DataError(f"the vocabulary's {kind}_id column must count 0, 1, 2, ...; prepare the graph again")
        return cls(table[kind], kind)

    def __len__(self) -> int:
        return len(self.names)

    def encode(self, names: pa.Array | pa.ChunkedArray | Sequence[str]) -> np.ndarray:
        """Ids of names.

        Returns:
            int64, shape (len(names),).

        Raises:
            DataError: Names that are not in the vocabulary; the message lists some, with the closest known names.
        """
        names = _large_strings(names)
        ids = self.find(names)
        if (ids < 0).any():
            raise DataError(self._explain_unknown(pc.unique(names.filter(pa.array(ids < 0)))))
        return ids

    def find(self, names: pa.Array | pa.ChunkedArray | Sequence[str]) -> np.ndarray:
        """Ids of names, -1 for those that are not in the vocabulary, and for nulls; int64, shape (len(names),)."""
        requested = _large_strings(names).dictionary_encode()
        # The hash table is of the requested names, not of all known ones: those may be many more.
        found = pc.index_in(self.names, value_set=requested.dictionary)
        id_of_requested = np.full(len(requested.dictionary) + 1, -1)
        id_of_requested[found.drop_null().to_numpy()] = np.flatnonzero(found.is_valid())
        # Nulls read the last place, which no name has.
        return id_of_requested[requested.indices.fill_null(-1).to_numpy(zero_copy_only=False)]

    def decode(self, ids: np.ndarray | Sequence[int]) -> pa.Array:
        """Names of ids, large_string."""
        return self.names.take(pa.array(ids, pa.int64()))

    def alike(self, names: pa.Array) -> list[list[int]]:
        """For each name the ids of those that equal it where case does not count, and "_" is a blank; ascending."""
        requested = _plain(_large_strings(names)).dictionary_encode()
        place = pc.index_in(self._plain, value_set=requested.dictionary)
        ids: list[list[int]] = [[] for _ in range(len(requested.dictionary))]
        for number, known in zip(place.drop_null().to_pylist(), np.flatnonzero(place.is_valid()).tolist(), strict=True):
            ids[number].append(known)
        return [ids[number] for number in requested.indices.to_pylist()]

    def beginning(self, text: str, most: int) -> list[str]:
        """Names that begin with a text, where case does not count and "_" is a blank, by id; at most so many."""
        plain = _plain(pa.scalar(text, pa.large_string())).as_py()
        return self.names.filter(pc.starts_with(self._plain, plain))[:most].to_pylist()

    def closest(self, name: str, n: int = 3) -> list[str]:
        """The most similar names, best first, at most n; case does not count, and "_" is a blank.

        A shortlist by shared letter pairs limits this to about a second for a million names.
        """
        plain = _plain(pa.scalar(name, pa.large_string())).as_py()
        pairs = {plain[i : i + 2] for i in range(max(len(plain) - 1, 1))} - {""}
        if not pairs or not len(self):
            return []
        shared = sum(pc.match_substring(self._plain, pair).cast(pa.int32()).to_numpy() for pair in pairs)
        likeness = 2 * shared / (len(plain) + pc.utf8_length(self.names).to_numpy())
        shortlist = np.argsort(-likeness, kind="stable")[:_SHORTLIST]
        shortlist = shortlist[likeness[shortlist] > 0]
        texts = self._plain.take(pa.array(shortlist)).to_pylist()
        ratios = np.array(_ratios(plain, texts))
        best = np.lexsort((shortlist, -ratios))[:n]
        return self.decode(shortlist[best[ratios[best] >= _LEAST_LIKENESS]]).to_pylist()

    def hint(self, name: str) -> str:
        """The closest names as the end of a message, "; did you mean ...?"; empty where there are none."""
        close = self.closest(name)
        return f"; did you mean {', '.join(map(quoted, close))}?" if close else ""

    @cached_property
    def hash(self) -> str:
        """Hash of the names in their order."""
        _, offsets, content = self.names.buffers()
        ends = np.frombuffer(offsets, np.int64)[self.names.offset : self.names.offset + len(self) + 1]
        digest = hashlib.sha256(np.diff(ends).tobytes())
        if len(self):
            digest.update(content.slice(ends[0], ends[-1] - ends[0]))
        return digest.hexdigest()[:16]

    @cached_property
    def _plain(self) -> pa.Array:
        return _plain(self.names)

    def _explain_unknown(self, unknown: pa.Array) -> str:
        lines = [f"{len(unknown)} unknown {self.kind} name(s), of {len(self)} known:"]
        lines += [
            "  a missing value (null)" if name is None else f"  {quoted(name)}{self.hint(name)}"
            for name in unknown[:_NAMED_IN_ERRORS].to_pylist()
        ]
        if len(unknown) > _NAMED_IN_ERRORS:
            lines.append(f"  and {len(unknown) - _NAMED_IN_ERRORS} more")
        return "\n".join(lines)


def _plain(names: Any) -> Any:
    """Names, or one, as they are compared where case does not count, and "_" is a blank."""
    return pc.replace_substring(pc.utf8_lower(names), "_", " ")


def vocabulary_hash(entities: Vocabulary, relations: Vocabulary) -> str:
    """One hash of both vocabularies: equal hashes mean equal ids."""
    return hashlib.sha256(f"{entities.hash} {relations.hash}".encode()).hexdigest()[:16]


def tally(names: pa.Array | pa.ChunkedArray, counts: np.ndarray, first: np.ndarray) -> pa.Table:
    """A TALLY table, one row a name, from rows with repeated names, their counts and first snapshots; all (rows,)."""
    return merge_tallies([pa.table([names.cast(pa.large_string()), counts, first], schema=TALLY)])


def merge_tallies(tallies: Iterable[pa.Table]) -> pa.Table:
    """One TALLY table from many; the order of the tables does not matter to the sums."""
    together = pa.concat_tables([TALLY.empty_table(), *tallies])
    grouped = together.group_by("name").aggregate([("count", "sum"), ("first", "min")])
    return grouped.select(["name", "count_sum", "first_min"]).rename_columns(TALLY.names).cast(TALLY)


def partition_tally(found: pa.Table, partitions: int) -> tuple[pa.Table, ...]:
    """Divide a TALLY by hashes of the names: a name is in the same partition wherever it was tallied."""
    partition = partition_by_hash(found.select(["name"]), partitions)
    return tuple(found.filter(pa.array(partition == number)) for number in range(partitions))


def partition_by_hash(names: pa.Table, partitions: int) -> np.ndarray:
    """A number in [0, partitions) for each row of a table of strings; equal rows of any tables have the same number."""
    hashes = hash_pandas_object(names.to_pandas(), index=False)  # ty: ignore[not-callable] -- its stub is lazy
    return (hashes % partitions).to_numpy(np.int32)


def entity_table(found: pa.Table) -> pa.Table:
    """The ENTITIES table of a TALLY: ids by descending degree, ties by name in code-point order."""
    # Arrow compares strings by their UTF-8 bytes, which is code-point order.
    ranked = found.sort_by([("count", "descending"), ("name", "ascending")]).combine_chunks()
    return pa.table([np.arange(len(ranked)), *ranked.columns], schema=ENTITIES)


def relation_table(found: pa.Table) -> pa.Table:
    """The RELATIONS table of a TALLY; see `entity_table`."""
    return pa.table(entity_table(found).columns, schema=RELATIONS)


def _ratios(name: str, texts: Sequence[str]) -> list[float]:
    """How alike a name and each text are, from 0 to 1; 0 for all below `_LEAST_LIKENESS`."""
    matcher, ratios = difflib.SequenceMatcher(b=name), []
    for text in texts:
        matcher.set_seq1(text)  # what is known of the other stays
        is_possible = min(matcher.real_quick_ratio(), matcher.quick_ratio()) >= _LEAST_LIKENESS
        ratios.append(matcher.ratio() if is_possible else 0.0)
    return ratios


def _large_strings(names: pa.Array | pa.ChunkedArray | Sequence[str]) -> pa.Array:
    if isinstance(names, pa.ChunkedArray):
        names = names.combine_chunks()
    return names.cast(pa.large_string()) if isinstance(names, pa.Array) else pa.array(names, pa.large_string())
