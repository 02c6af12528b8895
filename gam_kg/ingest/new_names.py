"""Names that a vocabulary lacks: provisional ids first, final ones when it is known which facts are used."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gam_kg.ingest.vocabulary import Vocabulary


@dataclass(frozen=True)
class NewNames:
    """Names that a vocabulary lacks.

    Attributes:
        known: The vocabulary.
        names: The names; that at position p has the provisional id len(known) + p.
    """

    known: Vocabulary
    names: pa.Array

    @classmethod
    def find(cls, names: pa.ChunkedArray, known: Vocabulary) -> tuple["NewNames", np.ndarray]:
        """The new ones of some names, and the ids of all, int64 (len(names),)."""
        ids = known.find(names)
        coded = names.filter(pa.array(ids < 0)).combine_chunks().dictionary_encode()
        ids[ids < 0] = len(known) + coded.indices.to_numpy()
        return cls(known, coded.dictionary), ids

    def number(self, uses: np.ndarray, schema: pa.Schema) -> tuple[pa.Table, np.ndarray]:
        """Number the names by first snapshot, then by descending count, then by name.

        Args:
            uses: (id, snapshot) of each name of each fact, known ones too, int64 (num_uses, 2).
            schema: ENTITIES or RELATIONS.

        Returns:
            (a table of the new names among them; the final id of each of `names`, int64 (len(names),), -1 for those
            that no fact has).
        """
        position, snapshot = (uses[uses[:, 0] >= len(self.known)] - [len(self.known), 0]).T
        count = np.bincount(position, minlength=len(self.names))
        first = np.full(len(self.names), np.iinfo(np.int64).max)
        np.minimum.at(first, position, snapshot)
        rank = np.empty(len(self.names), np.int64)
        rank[pc.array_sort_indices(self.names).to_numpy()] = np.arange(len(self.names))
        order = np.lexsort([rank, -count, first])
        order = order[count[order] > 0]
        final = np.full(len(self.names), -1)
        final[order] = len(self.known) + np.arange(len(order))
        columns = [final[order], self.names.take(pa.array(order)), count[order], first[order]]
        return pa.table(columns, schema=schema), final

    def renumbered(self, ids: np.ndarray, final: np.ndarray) -> np.ndarray:
        """Ids with final ones in place of provisional ones; same shape."""
        is_new, found = ids >= len(self.known), ids.copy()
        found[is_new] = final[ids[is_new] - len(self.known)]
        return found
