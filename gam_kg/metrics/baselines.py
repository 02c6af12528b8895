"""Untrained baselines: what counting alone achieves, always reported beside the model.

Each scores the queries of a snapshot from what it and the history have been told of, like the model, and is ranked
alike. All of them score few pairs before a background of popularity or of nothing, so that what they take grows with
facts and not with queries times entities.
"""

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from gam_kg.data.history import HistoryIndex
from gam_kg.data.partition import Partition
from gam_kg.data.past import NUM_BUCKETS, log_bucket
from gam_kg.data.ragged import distinct_index, offsets_of, ragged_ranges
from gam_kg.data.snapshot import Moment, Queries
from gam_kg.distributed.topology import Topology
from gam_kg.metrics.sparse_scores import Background, SparseScores

_MOST_LOG2 = 1100.0


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
    def scores(self, queries: Queries) -> SparseScores:
        """Score the rank's candidates from the past. A collective."""

    def remember(self, moment: Moment) -> None:  # noqa: B027 -- optional
        """Take note of a snapshot that is about to be in the past; most need not."""


class Popularity(Baseline):
    """How many past snapshots have a fact (any, r, o)."""

    _asked: tuple[Queries, int] | None = None

    def scores(self, queries: Queries) -> SparseScores:
        background, row, _ = self.background(queries)
        none = torch.zeros(0, dtype=torch.int64, device=row.device)
        return SparseScores.of_pairs(background, row, self.partition.num_rows, none, none.double())

    def background(self, queries: Queries) -> tuple[Background, Tensor, Tensor]:
        """The counts of each relation asked about; a collective.

        Returns:
            The counts, a background a relation; which of them each query has, int64 (num_queries,); what the counts
            of all ranks add up to, float64 (num_backgrounds, 1).
        """
        # Other baselines ask for the same again.
        if self._asked is None or self._asked[0] is not queries or self._asked[1] != self.history.as_of:
            self._asked, self._found = (queries, self.history.as_of), self._look_up(queries)
        return self._found

    def _look_up(self, queries: Queries) -> tuple[Background, Tensor, Tensor]:
        relations, row = distinct_index(queries.relation)
        found = self.history.by_relation.recent(relations)
        num_levels = 1 + int(found.count.max()) if len(found.count) else 1
        number = torch.bincount(found.row * num_levels + found.count, minlength=len(relations) * num_levels)
        number = number.view(len(relations), num_levels)
        number[:, 0] = self.partition.num_rows - number.sum(1)
        counts = torch.arange(num_levels, dtype=torch.float64, device=row.device)
        values = counts.expand(len(relations), -1)
        background = Background(values, number, lambda of, other: self.history.times_answered(relations[of], other))
        total = (counts * number).sum(1, keepdim=True)
        return background, row, self.topology.sum(total, "ranks")


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
        # For every age until nothing is left, and once: an exponential may be rounded by its place in a tensor, so that
        # facts of one age would not tie.
        ages = torch.arange(2 + int(_MOST_LOG2 / decay), dtype=torch.float64)
        self._fading = torch.exp2(-decay * ages).to(history.device)
        # What each fact scores in the snapshot in which it was last seen.
        self._faded = torch.zeros(len(history.facts.keys), dtype=torch.float64, device=history.device)

    def scores(self, queries: Queries) -> SparseScores:
        num_rows = self.partition.num_rows
        zero = Background.zero(num_rows, queries.subject.device)
        return SparseScores.of_pairs(zero, torch.zeros_like(queries.subject), num_rows, *self.pairs(queries))

    def pairs(self, queries: Queries) -> tuple[Tensor, Tensor]:
        """The candidates that do not score zero, as `SparseScores.of_pairs` takes them, and their scores."""
        found = self.history.by_query.recent(self.history.query_key(queries))
        faded = self._faded[found.key] * self._fading_of(queries.time - found.last)
        return found.row * self.partition.num_rows + found.item, faded

    def remember(self, moment: Moment) -> None:
        ids = self.history.seen_facts(moment.snapshot)
        before = self._faded[ids] * self._fading_of(moment.time - self.history.facts.last[ids])
        self._faded[ids] = before + 1

    def _fading_of(self, age: Tensor) -> Tensor:
        return self._fading[age.clamp(max=len(self._fading) - 1)]


class CombinedRecurrency(Baseline):
    """Strict recurrency first, then the share of the relation's facts that have the object.

    Source: Gastinger et al. 2024, strict and relaxed recurrency combined; the relaxed part weighs a billionth, so
    that it orders what the strict part ties. The strict part counts by its logarithm, or it would fade below that.
    """

    def __init__(self, strict: StrictRecurrency, popularity: Popularity) -> None:
        super().__init__(strict.history, strict.partition, strict.num_relations, strict.topology)
        self._strict, self._popularity = strict, popularity

    def scores(self, queries: Queries) -> SparseScores:
        pair, faded = self._strict.pairs(queries)
        # Between 0 and 1, as logarithms of all positive numbers lie within ± 1,100; what has faded to zero is unseen.
        score = torch.where(faded > 0, (torch.log2(faded) + _MOST_LOG2) / (2 * _MOST_LOG2), 0.0)
        return _before_popularity(self._popularity, queries, pair, score)


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
        self._counts = _KindCounts(self.history.device)

    def scores(self, queries: Queries) -> SparseScores:
        if self._counts.empty:
            return self._popularity.scores(queries)
        query, other, kind = self._past(queries)
        exposures, hits = self._counts.of(kind)
        rate = hits / (exposures + 1)
        pair, index = distinct_index(query * self.partition.num_rows + other)
        score = torch.zeros(len(pair), dtype=torch.float64, device=pair.device)
        score.index_add_(0, index, rate)
        return _before_popularity(self._popularity, queries, pair, score)

    def remember(self, moment: Moment) -> None:
        queries = moment.queries
        query, other, kind = self._past(queries)
        owned = self.partition.owns(queries.answer)
        stride = max(1, self.partition.num_rows)
        answers = queries.answer_query[owned] * stride + self.partition.rows(queries.answer[owned])
        kinds, exposures = _distinct(kind)
        hit, hits = _distinct(kind[_places_of(answers, query * stride + other)])
        counted = torch.stack([kinds, exposures, torch.zeros_like(exposures)])
        counted[2, torch.searchsorted(kinds, hit)] = hits
        self._counts.add(*self.topology.gather(counted.T, "history").T.contiguous())

    def _past(self, queries: Queries) -> tuple[Tensor, Tensor, Tensor]:
        """Query, row of the other and kind (relation asked, relation seen, recency) of each past fact of a subject."""
        subjects, subject_row = distinct_index(queries.subject)
        found = self.history.recent_facts(subjects, self.limit)
        start, length = offsets_of(found.row, len(subjects))
        query, entry = ragged_ranges(start[subject_row], length[subject_row])
        seen, other = found.item // self.history.stride, found.item % self.history.stride
        seen = seen * NUM_BUCKETS + log_bucket(queries.time - found.last)
        asked = queries.relation * 2 * self.num_relations * NUM_BUCKETS
        kind = asked.index_select(0, query).add_(seen.index_select(0, entry))
        return query, other.index_select(0, entry), kind


class _KindCounts:
    """Exposures and hits by kind. There is room for every recency of a pair of relations once the pair is met."""

    def __init__(self, device: torch.device) -> None:
        self._pairs = torch.zeros(0, dtype=torch.int64, device=device)  # of relations, ascending
        self._rows = self._pairs.clone()  # the room of each, in the order in which they were met
        self._exposures, self._hits = (torch.zeros(0, dtype=torch.float64, device=device) for _ in range(2))

    @property
    def empty(self) -> bool:
        """Whether nothing was counted."""
        return not len(self._pairs)

    def add(self, kind: Tensor, exposures: Tensor, hits: Tensor) -> None:
        """Count; int64 (num_counted,) each, of kinds in any order and any number of times."""
        pairs = torch.unique_consecutive(kind // NUM_BUCKETS)
        new = pairs[~self._places(pairs)[1]]
        if len(new):
            self._meet(torch.unique(new))
        position, _ = self._positions(kind)
        self._exposures.index_add_(0, position, exposures.double())
        counted = torch.nonzero(hits)[:, 0]
        self._hits.index_add_(0, position[counted], hits[counted].double())

    def of(self, kind: Tensor) -> tuple[Tensor, Tensor]:
        """Exposures and hits so far, zero for kinds never met, float64 (num_asked,) each."""
        position, known = self._positions(kind)
        exposures, hits = (torch.where(known, counts[position], 0) for counts in (self._exposures, self._hits))
        return exposures, hits

    def _positions(self, kind: Tensor) -> tuple[Tensor, Tensor]:
        """Where kinds are counted, and whether there is such a place, (num_asked,) each."""
        pairs, index = torch.unique_consecutive(kind // NUM_BUCKETS, return_inverse=True)
        place, known = self._places(pairs)
        return (self._rows[place] * NUM_BUCKETS).index_select(0, index) + kind % NUM_BUCKETS, known[index]

    def _places(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        if self.empty:
            return torch.zeros_like(pairs), torch.zeros_like(pairs, dtype=torch.bool)
        place = torch.searchsorted(self._pairs, pairs).clamp(max=len(self._pairs) - 1)
        return place, self._pairs[place] == pairs

    def _meet(self, new: Tensor) -> None:
        """Make room for pairs, distinct and ascending."""
        met, size = len(self._pairs), len(self._pairs) + len(new)
        at = torch.searchsorted(self._pairs, new) + torch.arange(len(new), device=new.device)
        is_old = torch.ones(size, dtype=torch.bool, device=new.device).index_fill_(0, at, False)
        rows = torch.arange(met, size, device=new.device)
        # Inserted, for sorting all of them at each snapshot takes longer than counting.
        self._pairs, self._rows = (
            old.new_empty(size).masked_scatter_(is_old, old).index_copy_(0, at, inserted)
            for old, inserted in ((self._pairs, new), (self._rows, rows))
        )
        if size * NUM_BUCKETS > len(self._hits):
            more = self._hits.new_zeros(max(size * NUM_BUCKETS, len(self._hits) * 3 // 2) - len(self._hits))
            self._exposures, self._hits = (torch.cat([counts, more]) for counts in (self._exposures, self._hits))


def _before_popularity(popularity: Popularity, queries: Queries, pair: Tensor, score: Tensor) -> SparseScores:
    """Scores of pairs, zero for all others, with ties ordered by the share of the relation's counts."""
    background, row, total = popularity.background(queries)
    share = background.scaled(1e-9 / total.clamp(min=1))
    return SparseScores.of_pairs(share, row, popularity.partition.num_rows, pair, score)


def _distinct(values: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct values, ascending, and how often each is there; int64 (num_distinct,) each."""
    if values.device.type == "cpu":  # numpy sorts numbers several times faster than torch
        values = torch.from_numpy(np.sort(values.numpy()))
        return torch.unique_consecutive(values, return_counts=True)
    return torch.unique(values, return_counts=True)


def _places_of(wanted: Tensor, keys: Tensor) -> Tensor:
    """Positions at which keys are among a few wanted ones, ascending, int64 (num_found,)."""
    # Almost none is: most are told by a few of their bits.
    last_bits = 2**20 - 1
    marked = torch.zeros(last_bits + 1, dtype=torch.bool, device=keys.device)
    marked[wanted & last_bits] = True
    maybe = torch.nonzero(marked.index_select(0, keys & last_bits))[:, 0]
    return maybe[torch.isin(keys[maybe], wanted)]


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
