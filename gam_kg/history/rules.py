"""Rules that subjects share, counted: of those with (r', c') in their past and queried for r, how many had answer c.

A rule has a body (r', c') and a head (r, c). The bodies of a query (s, r) are the most recent distinct facts
(s, r', c') before its snapshot. Each query of a snapshot adds, for each of its bodies, 1 to the exposures of
(r', c') → r, and 1 to the hits of (r', c') → (r, c) for every answer c. Hits by exposures are the confidence of a rule.

Source: Gastinger et al. 2025, "CountTRuCoLa", c-rules.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from gam_kg.history.found import Heads
from gam_kg.history.recency import find_keys
from gam_kg.ops.ragged import ragged_ranges, select, unique_inverse
from gam_kg.ops.sparse import rows_from_runs

FEWEST_HITS = 2
"""Hits that a rule has at least, if nothing else is requested: what has happened once may be chance."""

_MERGED_AT_ONCE = 2**20


class RuleTable:
    """Hits and exposures of the rules with a rank's candidates as answers. They see only the snapshots inserted so far.

    Args:
        keys: Every rule that is counted, as `group * num_rows + row`, distinct and ascending, int64 (num_keys,).
        num_rows: Rows of the shard, at least 1.
    """

    def __init__(self, keys: Tensor, num_rows: int) -> None:
        self._keys, self._num_rows = keys, num_rows
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
            (place,) = select(*reversed(find_keys(table, found)))
            counts.index_add_(0, place, torch.ones_like(place, dtype=torch.int32))

    def heads(self, groups: Tensor, fewest: int) -> Heads:
        """The answers to which groups have led at least `fewest` times.

        Args:
            groups: int64 (num_groups,).
            fewest: At least 1.
        """
        place, known = find_keys(self._groups, groups)
        (request,), (place,) = torch.nonzero(known, as_tuple=True), select(known, place)
        first, end = self._offsets.index_select(0, place), self._offsets.index_select(0, place + 1)
        at, key = ragged_ranges(first, end - first)
        hits = self._hits.index_select(0, key)
        at, key, hits = select(hits >= fewest, at, key, hits)
        item = self._keys.index_select(0, key) % self._num_rows
        exposures = self._exposures.index_select(0, place.index_select(0, at))
        return Heads(request.index_select(0, at), item, hits.long(), exposures.long())


def frequent(parts: Iterable[Tensor], fewest: int) -> Tensor:
    """The distinct keys of parts that they have at least `fewest` times in all, ascending, int64 (num_frequent,).

    Args:
        parts: Keys, int64 (num_keys,) each; no more than a few times the distinct keys are in memory.
        fewest: At least 1.
    """
    keys = counts = torch.zeros(0, dtype=torch.int64)
    waiting: list[Tensor] = []

    def merge() -> tuple[Tensor, Tensor]:
        found, index = unique_inverse(torch.cat([keys, *waiting]))
        weight = torch.cat([counts, torch.ones(len(index) - len(counts), dtype=torch.int64)])
        return found, torch.zeros_like(found).index_add_(0, index, weight)

    for part in parts:
        waiting.append(part)
        if sum(map(len, waiting)) > max(_MERGED_AT_ONCE, len(keys)):
            keys, counts = merge()
            waiting.clear()
    keys, counts = merge()
    return keys[counts >= fewest]
