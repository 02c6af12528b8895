"""Rules that subjects share, counted: of those with (r', c') in their past and queried for r, how many had answer c.

A rule has a body (r', c') and a head (r, c). The bodies of a query (s, r) are the most recent distinct facts
(s, r', c') before its snapshot. Each query of a snapshot adds, for each of its bodies, 1 to the exposures of
(r', c') → r, and 1 to the hits of (r', c') → (r, c) for every answer c. Hits by exposures are the confidence of a rule.

Source: Gastinger et al. 2025, "CountTRuCoLa", c-rules.
"""

import torch
from torch import Tensor

from gam_kg.graph.snapshot import lexical_order
from gam_kg.history.found import Heads
from gam_kg.history.rule_keys import KeyCounts
from gam_kg.ops.ragged import find_keys, insert_at, ragged_ranges, select, sort_with_positions, unique_inverse

FEWEST_HITS = 2
"""Hits that a rule has at least, if nothing else is requested: what has happened once may be chance."""


class RuleTable:
    """Hits and exposures of the rules with a rank's candidates as answers. They see only the snapshots inserted so far.

    Args:
        keys: The rules that are counted, as `group * num_rows + row`, distinct and ascending, int64 (num_keys,).
        num_rows: Rows of the shard, at least 1.
        fewest: Hits of each of them in the end, at least. A look-up finds rules with as many so far.
        groups: Those whose exposures are counted, ascending; None: those of the keys.
        grows: Whether rules that are not among the keys are counted too.
    """

    def __init__(
        self, keys: Tensor, num_rows: int, fewest: int, groups: Tensor | None = None, *, grows: bool = False
    ) -> None:
        self._keys, self._num_rows, self.fewest, self._grows = keys, num_rows, fewest, grows
        self._hits = torch.zeros_like(keys, dtype=torch.int32)
        self._groups = torch.unique_consecutive(keys // num_rows) if groups is None else groups
        self._exposures = torch.zeros_like(self._groups, dtype=torch.int32)
        starts = torch.cat([self._groups, self._groups[-1:] + 1]) * num_rows
        self._offsets = torch.searchsorted(keys, starts) if len(keys) else torch.zeros_like(starts)
        self._newer_keys, self._newer_groups = KeyCounts(), KeyCounts()

    @property
    def fixed(self) -> list[Tensor]:
        """What never changes."""
        return [self._keys, self._groups, self._offsets]

    def clear(self) -> None:
        """Go back to before the first snapshot."""
        self._hits.zero_()
        self._exposures.zero_()
        self._newer_keys, self._newer_groups = KeyCounts(), KeyCounts()

    def restore(self, hits: Tensor, exposures: Tensor) -> None:
        """Put the table where one was whose `counts`, of the same keys and groups, these are."""
        self._hits.copy_(hits)
        self._exposures.copy_(exposures)

    def counts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Keys, their hits, groups and their exposures so far, of those that have some, ascending."""
        keys, hits = _together(self._keys, self._hits, self._newer_keys)
        return keys, hits, *_together(self._groups, self._exposures, self._newer_groups)

    def insert(self, groups: Tensor, keys: Tensor) -> None:
        """Count the queries of a snapshot.

        Args:
            groups: An exposure each, int64 (num_exposures,).
            keys: A hit each, int64 (num_hits,).
        """
        for table, found, counts, newer in (
            (self._groups, groups, self._exposures, self._newer_groups),
            (self._keys, keys, self._hits, self._newer_keys),
        ):
            # A search for ascending keys stays in the caches.
            found, _ = sort_with_positions(found)
            place, known = find_keys(table, found)
            (of_known,) = select(known, place)
            counts.index_add_(0, of_known, torch.ones_like(of_known, dtype=torch.int32))
            if self._grows:
                newer.add(found[~known])

    def heads(self, groups: Tensor, fewest: int) -> Heads:
        """The answers to which groups have led at least `fewest` times, and never less often than `self.fewest`.

        Args:
            groups: int64 (num_groups,).
            fewest: At least 1.
        """
        distinct, of_request = unique_inverse(groups)
        place, known = find_keys(self._groups, distinct)
        first, end, exposures = (torch.zeros_like(distinct) for _ in range(3))
        if len(self._groups):
            first, end = (torch.where(known, self._offsets.index_select(0, place + step), 0) for step in (0, 1))
            exposures = torch.where(known, self._exposures.index_select(0, place).long(), 0)
        fewest = max(fewest, self.fewest)
        heads = self._heads(self._keys, self._hits, first, end - first, exposures, of_request, fewest)
        newer = self._newer_keys
        if not len(newer.keys):
            return heads
        place, known = find_keys(self._newer_groups.keys, distinct)
        if len(self._newer_groups.keys):
            exposures = torch.where(known, self._newer_groups.counts.index_select(0, place).long(), exposures)
        first, end = (torch.searchsorted(newer.keys, (distinct + step) * self._num_rows) for step in (0, 1))
        others = self._heads(newer.keys, newer.counts, first, end - first, exposures, of_request, fewest)
        both = [torch.cat(columns) for columns in zip(vars(heads).values(), vars(others).values(), strict=True)]
        order = lexical_order(*both[:2])
        return Heads(*(column.index_select(0, order) for column in both))

    def _heads(
        self,
        keys: Tensor,
        hits: Tensor,
        first: Tensor,
        length: Tensor,
        exposures: Tensor,
        of_request: Tensor,
        fewest: int,
    ) -> Heads:
        """The heads in ranges of keys; `of_request` is the range of each request."""
        at, key = ragged_ranges(first.index_select(0, of_request), length.index_select(0, of_request))
        found = hits.index_select(0, key)
        at, key, found = select(found >= fewest, at, key, found)
        of_head = exposures.index_select(0, of_request.index_select(0, at))
        return Heads(at, keys.index_select(0, key) % self._num_rows, found.long(), of_head)


def _together(keys: Tensor, counts: Tensor, newer: KeyCounts) -> tuple[Tensor, Tensor]:
    """Keys that were counted, ascending, and their counts."""
    keys, counts = select(counts > 0, keys, counts)
    at = torch.searchsorted(keys, newer.keys) + torch.arange(len(newer.keys))
    return insert_at(keys, newer.keys, at), insert_at(counts, newer.counts, at)
