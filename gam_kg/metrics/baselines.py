"""Untrained baselines: what counting alone achieves, always reported beside the model.

Each scores the queries of a snapshot from what it and the history have been told of, like the model, and is ranked by
the same code.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from gam_kg.data.history import HistoryIndex
from gam_kg.data.partition import Partition
from gam_kg.data.past import NUM_BUCKETS, log_bucket
from gam_kg.data.ragged import offsets_of, ragged_ranges
from gam_kg.data.snapshot import Moment, Queries
from gam_kg.distributed.topology import Topology


class Baseline(ABC):
    """A scorer that learns nothing, of one rank's candidates.

    Args:
        history: The past, told of each snapshot after the baseline is.
        partition: The rank's candidates.
        num_relations: Relations without inverses.
        topology: The ranks.
    """

    def __init__(self, history: HistoryIndex, partition: Partition, num_relations: int, topology: Topology) -> None:
        self.history, self.partition, self.num_relations, self.topology = history, partition, num_relations, topology

    @abstractmethod
    def scores(self, queries: Queries) -> Tensor:
        """Score the rank's candidates from the past; float64 (num_queries, num_rows). A collective."""

    def remember(self, moment: Moment) -> None:  # noqa: B027 -- optional
        """Take note of a snapshot that is about to be in the past; most need not."""

    def _zeros(self, queries: Queries) -> Tensor:
        shape = (len(queries), self.partition.num_rows)
        return torch.zeros(shape, dtype=torch.float64, device=queries.subject.device)

    def _then(self, scores: Tensor, counts: Tensor) -> Tensor:
        """Scores whose ties are ordered by the share of counts; both are overwritten."""
        total = self.topology.sum(counts.sum(1, keepdim=True), "ranks")
        return scores.add_(counts.mul_(1e-9 / total.clamp(min=1)))


class Popularity(Baseline):
    """How many past snapshots have a fact (any, r, o)."""

    def scores(self, queries: Queries) -> Tensor:
        relations, row = torch.unique(queries.relation, return_inverse=True)
        found = self.history.by_relation.recent(relations)
        counts = torch.zeros(len(relations), self.partition.num_rows, dtype=torch.float64, device=row.device)
        counts[found.row, found.item] = found.count.double()
        return counts[row]


class StrictRecurrency(Baseline):
    """Past occurrences of (s, r, o), each fading with age: Σ 2^(−λ age); unseen facts score zero.

    Source: Gastinger et al. 2024, "History repeats itself", strict recurrency with exponential decay; λ is one for all
    relations here.

    Args:
        history, partition, num_relations, topology: As of `Baseline`.
        decay: λ, per snapshot.
    """

    decays = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    """What is tried on validation."""

    def __init__(
        self,
        history: HistoryIndex,
        partition: Partition,
        num_relations: int,
        topology: Topology,
        decay: float = 0.03,
    ) -> None:
        super().__init__(history, partition, num_relations, topology)
        self.decay = decay
        # What each fact scores in the snapshot in which it was last seen.
        self._faded = torch.zeros(len(history.facts.keys), dtype=torch.float64, device=history.device)

    def scores(self, queries: Queries) -> Tensor:
        key = queries.subject * 2 * self.num_relations + queries.relation
        found = self.history.by_query.recent(key)
        faded = self._faded[found.key] * self._fading(queries.time - found.last)
        return self._zeros(queries).index_put_((found.row, found.item), faded)

    def remember(self, moment: Moment) -> None:
        ids = self.history.seen_facts(moment.snapshot)
        before = self._faded[ids] * self._fading(moment.time - self.history.facts.last[ids])
        self._faded[ids] = before + 1

    def _fading(self, age: Tensor) -> Tensor:
        return torch.exp2(-self.decay * age.double())


class CombinedRecurrency(Baseline):
    """Strict recurrency first, then the share of the relation's facts that have the object.

    Source: Gastinger et al. 2024, strict and relaxed recurrency combined; the relaxed part weighs a billionth, so
    that it orders what the strict part ties.
    """

    def __init__(self, strict: StrictRecurrency, popularity: Popularity) -> None:
        super().__init__(strict.history, strict.partition, strict.num_relations, strict.topology)
        self._strict, self._popularity = strict, popularity

    def scores(self, queries: Queries) -> Tensor:
        return self._then(self._strict.scores(queries), self._popularity.scores(queries))


class TypedPairCounts(Baseline):
    """How often a past fact (s, r', o) was followed by (s, r, o), counted by pair of relations and by recency.

    A candidate scores the sum over its past facts with the subject of hits / (exposures + 1), where an exposure is a
    query (s, r, ?) with (s, r', o) in its past, and a hit is one that o answers; popularity orders the rest. The
    counts come from the snapshots remembered so far.
    """

    limit = 1000
    """Most recent facts of a subject that are counted."""

    def __init__(self, popularity: Popularity) -> None:
        super().__init__(popularity.history, popularity.partition, popularity.num_relations, popularity.topology)
        self._popularity = popularity
        device = self.history.device
        self._kinds = torch.zeros(0, dtype=torch.int64, device=device)
        self._exposures = torch.zeros(0, dtype=torch.float64, device=device)
        self._hits = torch.zeros(0, dtype=torch.float64, device=device)

    def scores(self, queries: Queries) -> Tensor:
        query, other, kind = self._past(queries)
        if not len(self._kinds):
            return self._popularity.scores(queries)
        position = torch.searchsorted(self._kinds, kind).clamp(max=len(self._kinds) - 1)
        rate = self._hits[position] / (self._exposures[position] + 1)
        rate = torch.where(self._kinds[position] == kind, rate, 0)
        scores = self._zeros(queries).index_put_((query, other), rate, accumulate=True)
        return self._then(scores, self._popularity.scores(queries))

    def remember(self, moment: Moment) -> None:
        queries = moment.queries
        query, other, kind = self._past(queries)
        owned = self.partition.owns(queries.answer)
        stride = max(1, self.partition.num_rows)
        answers = queries.answer_query[owned] * stride + self.partition.rows(queries.answer[owned])
        hit = torch.isin(query * stride + other, answers).to(torch.int64)
        kinds, index = torch.unique(kind, return_inverse=True)
        counts = torch.zeros(2, len(kinds), dtype=torch.int64, device=kind.device)
        counts.index_add_(1, index, torch.stack([torch.ones_like(hit), hit]))
        kind, *counts = self.topology.gather(torch.stack([kinds, *counts], 1), "history").unbind(1)
        self._kinds, index = torch.unique(torch.cat([self._kinds, kind]), return_inverse=True)
        zeros = torch.zeros(len(self._kinds), dtype=torch.float64, device=kind.device)
        self._exposures = zeros.index_add(0, index, torch.cat([self._exposures, counts[0].double()]))
        self._hits = zeros.index_add(0, index, torch.cat([self._hits, counts[1].double()]))

    def _past(self, queries: Queries) -> tuple[Tensor, Tensor, Tensor]:
        """Query, row of the other and kind (relation asked, relation seen, recency) of each past fact of a subject."""
        subjects, subject_row = torch.unique(queries.subject, return_inverse=True)
        found = self.history.recent_facts(subjects, self.limit)
        start, length = offsets_of(found.row, len(subjects))
        query, entry = ragged_ranges(start[subject_row], length[subject_row])
        seen, other = found.item[entry] // self.history.stride, found.item[entry] % self.history.stride
        recency = log_bucket(queries.time - found.last[entry])
        kind = (queries.relation[query] * 2 * self.num_relations + seen) * NUM_BUCKETS + recency
        return query, other, kind


def build_baselines(
    history: HistoryIndex,
    partition: Partition,
    num_relations: int,
    topology: Topology | None = None,
    decay: float = 0.03,
) -> dict[str, Baseline]:
    """The baselines by name; remember with each, in this order. Arguments as of `StrictRecurrency`."""
    topology = topology or Topology()
    popularity = Popularity(history, partition, num_relations, topology)
    strict = StrictRecurrency(history, partition, num_relations, topology, decay)
    return {
        "popularity": popularity,
        "recurrency_strict": strict,
        "recurrency_combined": CombinedRecurrency(strict, popularity),
        "typed_pair_counts": TypedPairCounts(popularity),
    }
