"""Rules that subjects share, counted: of those with (r', c') in their past and queried for r, how many had answer c.

A rule has a body (r', c') and a head (r, c). The bodies of a query (s, r) are the most recent distinct facts
(s, r', c') before its snapshot. Each query of a snapshot adds, for each of its bodies, 1 to the exposures of
(r', c') → r, and 1 to the hits of (r', c') → (r, c) for every answer c. Hits by exposures are the confidence of a rule.

Source: Gastinger et al. 2025, "CountTRuCoLa", c-rules.
"""

import torch
from torch import Tensor

from gam_kg.history.found import Heads
from gam_kg.history.recency import find_keys
from gam_kg.ops.ragged import ragged_ranges, select, sort_with_positions, unique_inverse
from gam_kg.ops.sparse import rows_from_runs

FEWEST_HITS = 2
"""Hits that a rule has at least, if nothing else is requested: what has happened once may be chance."""


class RuleTable:
    """Hits and exposures of the rules with a rank's candidates as answers. They see only the snapshots inserted so far.

    Args:
        keys: Every rule that is counted, as `group * num_rows + row`, distinct and ascending, int64 (num_keys,).
        num_rows: Rows of the shard, at least 1.
        fewest: Hits of each of them in the end, at least. A look-up finds rules with as many so far.
    """

    def __init__(self, keys: Tensor, num_rows: int, fewest: int) -> None:
        self._keys, self._num_rows, self.fewest = keys, num_rows, fewest
        self._hits = torch.zeros_like(keys, dtype=torch.int32)
        self._groups, self._offsets = rows_from_runs(keys // num_rows)
        self._exposures = torch.zeros_like(self._groups, dtype=torch.int32)

    def clear(self) -> None:
        """Go back to before the first snapshot."""
        self._hits.zero_()
        self._exposures.zero_()

    def insert(self, groups: Tensor, keys: Tensor) -> None:
        """Count the queries of a snapshot.

        Args:
            groups: An exposure each, int64 (num_exposures,).
            keys: A hit each, int64 (num_hits,).
        """
        for table, found, counts in ((self._groups, groups, self._exposures), (self._keys, keys, self._hits)):
            # A search for ascending keys stays in the caches.
            (place,) = select(*reversed(find_keys(table, sort_with_positions(found)[0])))
            counts.index_add_(0, place, torch.ones_like(place, dtype=torch.int32))

    def heads(self, groups: Tensor, fewest: int) -> Heads:
        """The answers to which groups have led at least `fewest` times, and never less often than `self.fewest`.

        Args:
            groups: int64 (num_groups,).
            fewest: At least 1.
        """
        distinct, of_request = unique_inverse(groups)
        place, known = (column.index_select(0, of_request) for column in find_keys(self._groups, distinct))
        (request,), (place,) = torch.nonzero(known, as_tuple=True), select(known, place)
        first, end = self._offsets.index_select(0, place), self._offsets.index_select(0, place + 1)
        at, key = ragged_ranges(first, end - first)
        hits = self._hits.index_select(0, key)
        at, key, hits = select(hits >= max(fewest, self.fewest), at, key, hits)
        item = self._keys.index_select(0, key) % self._num_rows
        exposures = self._exposures.index_select(0, place.index_select(0, at))
        return Heads(request.index_select(0, at), item, hits.long(), exposures.long())
