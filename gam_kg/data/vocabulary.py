"""Vocabulary: strings to ids and back. Ids descend in use, ties in name order: they depend on the facts alone."""

import difflib
import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pandas.util import hash_array

from gam_kg.errors import DataError
from gam_kg.schemas import ENTITIES, RELATIONS

TALLY = pa.schema(
    [
        pa.field("name", pa.large_string(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
        pa.field("first", pa.int64(), nullable=False),
    ]
)

_SHORTLIST = 1000
_NAMED_IN_ERRORS = 5


class Vocabulary:
    """Names by id.

    Args:
        names: Distinct names, large_string, in the order of their ids.
        kind: "entity" or "relation", for messages.
    """

    def __init__(self, names: pa.Array | pa.ChunkedArray, kind: str = "entity") -> None:
        if isinstance(names, pa.ChunkedArray):
            names = names.combine_chunks()
        self.names: pa.Array = names.cast(pa.large_string())
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
        if not isinstance(names, (pa.Array, pa.ChunkedArray)):
            names = pa.array(names, pa.large_string())
        if isinstance(names, pa.ChunkedArray):
            names = names.combine_chunks()
        encoded = names.cast(pa.large_string()).dictionary_encode()
        # The hash table is of the names asked for, not of all that are known: those may be many more.
        found = pc.index_in(self.names, value_set=encoded.dictionary)
        ids = np.full(len(encoded.dictionary) + 1, -1)
        ids[found.drop_null().to_numpy()] = np.flatnonzero(found.is_valid())
        # A missing name takes the last place, which is nobody's.
        asked = ids[encoded.indices.fill_null(len(encoded.dictionary)).to_numpy(zero_copy_only=False)]
        if (asked < 0).any():
            raise DataError(self._explain_unknown(pc.unique(names.filter(pa.array(asked < 0)))))
        return asked

    def decode(self, ids: np.ndarray | Sequence[int]) -> pa.Array:
        """Names of ids, large_string."""
        return self.names.take(pa.array(ids, pa.int64()))

    def closest(self, name: str, n: int = 3) -> list[str]:
        """The most similar names, best first; fewer than n, or none, where little is alike.

        Case, and the difference between "_" and " ", count for nothing. A shortlist by shared letter pairs keeps this
        to about a second for a million names.
        """
        wanted = name.casefold().replace("_", " ")
        pairs = {wanted[i : i + 2] for i in range(max(len(wanted) - 1, 1))} - {""}
        if not pairs or not len(self):
            return []
        shared = sum(
            pc.match_substring(self._plain, pair).to_numpy(zero_copy_only=False).astype(np.int32) for pair in pairs
        )
        likeness = 2 * shared / (len(wanted) + self._lengths)
        candidates = np.argsort(-likeness, kind="stable")[:_SHORTLIST]
        plain = self._plain.take(pa.array(candidates[likeness[candidates] > 0])).to_pylist()
        scored = [
            (-difflib.SequenceMatcher(None, wanted, text).ratio(), int(found))
            for text, found in zip(plain, candidates, strict=False)
        ]
        best = [found for score, found in sorted(scored)[:n] if score <= -0.5]
        return self.decode(best).to_pylist()

    @cached_property
    def hash(self) -> str:
        """Hash of the names in their order."""
        digest = hashlib.sha256()
        digest.update(np.ascontiguousarray(pc.binary_length(self.names).to_numpy(zero_copy_only=False)).tobytes())
        offsets = np.frombuffer(self.names.buffers()[1], np.int64)[
            self.names.offset : self.names.offset + len(self) + 1
        ]
        if len(self) and offsets[-1] > offsets[0]:
            digest.update(self.names.buffers()[2].slice(offsets[0], offsets[-1] - offsets[0]))
        return digest.hexdigest()[:16]

    @cached_property
    def _plain(self) -> pa.Array:
        return pc.replace_substring(pc.utf8_lower(self.names), "_", " ")

    @cached_property
    def _lengths(self) -> np.ndarray:
        return pc.utf8_length(self.names).to_numpy(zero_copy_only=False)

    def _explain_unknown(self, unknown: pa.Array) -> str:
        lines = [f"{len(unknown)} unknown {self.kind} name(s), of {len(self)} known:"]
        for name in unknown[:_NAMED_IN_ERRORS].to_pylist():
            close = [] if name is None else self.closest(name)
            hint = f"; did you mean {', '.join(map(repr, close))}?" if close else ""
            lines.append(f"  {name!r}{hint}" if name is not None else "  a missing value (null)")
        if len(unknown) > _NAMED_IN_ERRORS:
            lines.append(f"  and {len(unknown) - _NAMED_IN_ERRORS} more")
        return "\n".join(lines)


def vocabulary_hash(entities: Vocabulary, relations: Vocabulary) -> str:
    """One hash of both vocabularies: equal hashes mean equal ids."""
    return hashlib.sha256(f"{entities.hash} {relations.hash}".encode()).hexdigest()[:16]


def tally(names: pa.Array | pa.ChunkedArray, counts: np.ndarray, first: np.ndarray) -> pa.Table:
    """Sum the uses of each name, and find its first snapshot.

    Args:
        names: Names with repetitions, shape (rows,).
        counts: Uses that each row stands for, shape (rows,).
        first: First snapshot of each row, shape (rows,).

    Returns:
        A TALLY table, one row a name, in no particular order.
    """
    columns = [names.cast(pa.large_string()), pa.array(counts, pa.int64()), pa.array(first, pa.int64())]
    return merge_tallies([pa.table(columns, schema=TALLY)])


def merge_tallies(tallies: Iterable[pa.Table]) -> pa.Table:
    """One TALLY table from many; the order of the tables does not matter to the sums."""
    together = pa.concat_tables([TALLY.empty_table(), *tallies])
    grouped = together.group_by("name").aggregate([("count", "sum"), ("first", "min")])
    return pa.table([grouped["name"], grouped["count_sum"], grouped["first_min"]], schema=TALLY)


def partition_tally(found: pa.Table, partitions: int) -> tuple[pa.Table, ...]:
    """Divide a TALLY by hashes of the names: a name is in the same partition wherever it was tallied."""
    names = found["name"].to_numpy()
    hashes = hash_array(names, categorize=False)  # ty: ignore[not-callable] -- its stub is lazy
    partition = (hashes % np.uint64(partitions)).astype(np.int64)
    ordered = found.take(pa.array(np.argsort(partition, kind="stable")))
    ends = np.cumsum(np.bincount(partition, minlength=partitions)).tolist()
    return tuple(ordered.slice(start, end - start) for start, end in pairwise([0, *ends]))


def entity_table(found: pa.Table) -> pa.Table:
    """The ENTITIES table of a TALLY: ids by descending degree, ties by name in code-point order."""
    ranked = _ranked(found)
    return pa.table([_ids(ranked), ranked["name"], ranked["count"], ranked["first"]], schema=ENTITIES)


def relation_table(found: pa.Table) -> pa.Table:
    """The RELATIONS table of a TALLY: ids by descending count, ties by name in code-point order."""
    ranked = _ranked(found)
    return pa.table([_ids(ranked), ranked["name"], ranked["count"]], schema=RELATIONS)


def _ranked(found: pa.Table) -> pa.Table:
    # Arrow compares strings by their UTF-8 bytes, which is code-point order.
    return found.sort_by([("count", "descending"), ("name", "ascending")]).combine_chunks()


def _ids(table: pa.Table) -> pa.Array:
    return pa.array(np.arange(len(table), dtype=np.int64))
