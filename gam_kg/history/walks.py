"""Walks of one or two past facts from the subjects of queries to candidates."""

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor

from gam_kg.history.bins import NUM_BINS, log_bin
from gam_kg.history.confidence import Confidences, join_confidences
from gam_kg.history.found import Found
from gam_kg.history.index import HistoryIndex
from gam_kg.history.pair_features import UNSEEN, combined, place_among_answers, query_feature, rhythm, turn
from gam_kg.history.recency import Recent
from gam_kg.history.rule_walks import RuleWalks, join_rules
from gam_kg.history.sampling import Sample
from gam_kg.ops.dimensions import Along, Number, Within
from gam_kg.ops.ragged import UniqueRows, join_groups, select, unique_inverse
from gam_kg.ops.sparse import CSRPattern, csr_offsets


@dataclass(frozen=True)
class Walks:
    """Walks from queries to candidates. A walk is a start plus a last fact.

    Of one fact: start = query. Of two: start = query and first fact.

    Attributes:
        num_pairs: Number of distinct (query, candidate) pairs that walks join.
        query: Query of each start, (num_starts,).
        first: First fact of each start, by relation and recency; None for walks of one fact.
        facts: Last facts, by relation, recency, count, and whether they were looked up by the query's relation.
        end: Row of the candidate of each last fact, (num_facts,): in the shard, or among rows of a layout.
        pattern: Joins starts to last facts, one entry per walk.
        pair: Pair of each walk, (num_walks,).
        features: Features of each pair, one for each of `pair_features.PARTS`; None for walks of two facts.
        feature_kind: Kind of the query of each of the distinct features, (num_features,); None likewise.
    """

    num_pairs: Annotated[int, Number(".pairs")]
    query: Annotated[Tensor, Along(".starts", "queries")]
    first: Annotated[UniqueRows | None, Within(stored=".first", rows=".starts")]
    facts: Annotated[UniqueRows, Within(stored=".distinct", rows=".facts")]
    end: Annotated[Tensor, Along(".facts", "ends")]
    pattern: Annotated[CSRPattern, Within(rows=".starts", columns=".facts", entries=".walks")]
    pair: Annotated[Tensor, Along(".walks", ".pairs")]
    features: Annotated[UniqueRows | None, Within(stored=".features", rows=".pairs")]
    feature_kind: Annotated[Tensor | None, Along(".features", "kinds")]


@dataclass(frozen=True)
class LastFacts:
    """The facts in which walks of one fact end, in the order of `Walks.facts`.

    Attributes:
        relation, row: Relation and row of the candidate in the shard, int64 (num_facts,).
        last, count: Snapshot in which each was last seen, and in how many it was, int64 (num_facts,).
    """

    relation: Tensor
    row: Tensor
    last: Tensor
    count: Tensor

    @classmethod
    def of(cls, found: Found, recent: Recent, same: Recent) -> "LastFacts":
        """Facts by subject, then answers by query; all of `found`, or those that were drawn of them."""
        relation = found.groups.queries.relation.index_select(0, same.row)
        return cls(
            torch.cat([recent.item // found.num_rows, relation]),
            torch.cat([recent.item % found.num_rows, same.item]),
            torch.cat([recent.last, same.last]),
            torch.cat([recent.count, same.count]),
        )


@dataclass(frozen=True)
class Joined:
    """What was found for queries, joined to each of them. Pairs are `query * num_rows + row`.

    Attributes:
        found: What was found.
        facts, paths: Walks of one and of two facts; None where they are switched off.
        rules: Rules; None where they are switched off.
        confidences: What rules say together; None where that is switched off.
        pairs: The distinct pairs of each of these, each (num_pairs,), ascending.
        excluded: Past pairs that were not drawn although their candidate is a column; (num_excluded,).
    """

    found: Found
    facts: Walks | None
    paths: Walks | None
    rules: RuleWalks | None
    confidences: Confidences | None
    pairs: list[Tensor]
    excluded: Tensor


def join(history: HistoryIndex, found: Found, sample: Sample | None = None) -> Joined:
    """Join what was found to the queries.

    Args:
        history: The index, as it was when the past was found.
        found: What it found.
        sample: Which candidates of the past are drawn; None: all. The others are dropped before the join.
    """
    join, config = _Join(history, found, sample), history.config
    by_query = config.same_relation > 0
    # Facts with the query's own relation are looked up by query, further back than others.
    walks = join.facts(by_query) if by_query or config.recent else None
    paths = None if found.hops is None or found.second is None else join.paths(found.second)
    rules = None
    if found.rules is not None:
        rules, pairs, excluded = join_rules(found, sample)
        join.pairs.append(pairs)
        join.excluded.append(excluded)
    confidences = None
    if found.pair_rules is not None:
        confidences, pairs, excluded = join_confidences(found, sample)
        join.pairs.append(pairs)
        join.excluded.append(excluded)
    return Joined(
        found,
        walks,
        paths,
        rules,
        confidences,
        join.pairs,
        torch.cat([torch.zeros(0, dtype=torch.int64), *join.excluded]),
    )


class _Join:
    def __init__(self, history: HistoryIndex, found: Found, sample: Sample | None) -> None:
        self.history, self.found, self.sample, self.num_rows = history, found, sample, found.num_rows
        self.now, self.relation = found.groups.queries.now, found.groups.queries.relation
        self.pairs: list[Tensor] = []
        self.excluded: list[Tensor] = []

    def facts(self, by_query: bool) -> Walks:
        """Walks of one fact; `by_query`: facts with the query's own relation are looked up apart."""
        queries, num_rows = self.found.groups.queries, self.num_rows
        recent, same = self.found.recent, self.found.same_relation
        if self.sample is not None:
            recent, left_out = self._drawn(self.sample, recent, self.found.groups.subjects)
            query, fact = self._readers(left_out, by_query)
            self._exclude(query, left_out.item[fact] % num_rows)
            same, left_out = self._drawn(self.sample, same, queries.subject)
            self._exclude(left_out.row, left_out.item)
        num_recent = len(recent.row)
        query, fact = self._readers(recent, by_query)
        query = torch.cat([query, same.row])
        fact = torch.cat([fact, torch.arange(num_recent, num_recent + len(same.row))])
        last_facts = LastFacts.of(self.found, recent, same)
        recency, count = log_bin(self.now - last_facts.last), log_bin(last_facts.count)
        is_same = (torch.arange(len(count)) >= num_recent).long()
        facts, end = UniqueRows.of((last_facts.relation, recency, count, is_same)), last_facts.row
        walks = self._walks(query, query, fact, None, facts, end)
        of_walk = (column.index_select(0, fact) for column in (recency, last_facts.count))
        features = self._features(walks, *of_walk, same)
        return replace(
            walks, features=replace(features, columns=features.columns[1:]), feature_kind=features.columns[0]
        )

    def _features(self, walks: Walks, recency: Tensor, count: Tensor, same: Recent) -> UniqueRows:
        """Kind and features of pairs, from recency bin and count of each walk; the last of these are `same`."""
        pair, size, found = walks.pair, walks.num_pairs, self.found
        num_other, history = len(pair) - len(same.row), self.history
        since = history.turns.of_query(history.query_key(found.groups.queries), same.row, same.place)
        of_candidate = history.turns.of_candidate(self.relation.index_select(0, same.row), same.item, same.place)
        same_parts = {
            "same": combined("same", recency[num_other:], log_bin(same.count)),
            "rhythm": rhythm(history.facts, same.place, self.now),
            "place": place_among_answers(same, found.answers),
            "turn": turn(since, found.answers.distinct.index_select(0, same.row)),
            "own_turn": turn(*of_candidate),
        }
        any_recency = torch.full((size,), NUM_BINS).scatter_reduce_(0, pair, recency, "amin")
        any_count = torch.zeros(size, dtype=torch.int64).index_add_(0, pair, count)
        query = self.pairs[-1] // self.num_rows
        columns = (
            found.groups.of_relation[query],
            *(
                torch.full((size,), UNSEEN[name]).index_copy_(0, pair[num_other:], one)
                for name, one in same_parts.items()
            ),
            combined("any", any_recency, log_bin(any_count), torch.bincount(pair, minlength=size)),
            query_feature(found.answers, self.now)[query],
        )
        return UniqueRows.of(columns)

    def paths(self, second: Recent) -> Walks:
        """Walks of two facts, which end in `second`."""
        hops, sample, num_rows = self.found.hops, self.sample, self.num_rows
        assert hops is not None
        if sample is not None:
            row = second.item % num_rows
            draws = sample.draws(row)
            relevant = sample.may_include(row, draws) | sample.has_column(row)
            second, draws = second.where(relevant), draws[relevant]
        end = second.item % num_rows
        first, last = join_groups(second.row, len(hops.neighbours), hops.of_neighbour)
        subject, ends = hops.row.index_select(0, first), end.index_select(0, last)
        included = self.found.own_row.index_select(0, subject) != ends  # a path back to the subject says nothing
        if sample is not None:
            drawn = sample.includes(self.found.groups.subjects[subject], ends, draws.index_select(0, last))
            left_out, row = select(included & ~drawn & sample.has_column(ends), subject, ends)
            query, at = self._join_queries(left_out)
            self._exclude(query, row[at])
            included &= drawn
        first, last, subject = select(included, first, last, subject)
        if sample is not None:  # most second facts are on no path that was drawn
            used, last = unique_inverse(last)
            second, end = Recent(*(column[used] for column in vars(second).values())), end[used]
        query, path = self._join_queries(subject)
        columns = second.item // num_rows, log_bin(self.now - second.last), log_bin(second.count)
        facts = UniqueRows.of((*columns, torch.zeros_like(end)))
        hop = first.index_select(0, path)
        # The walks of a query over one first fact share the left side of their product.
        start = query * max(1, len(hops.row)) + hop
        columns = (hops.relation, log_bin(self.now - hops.last))
        return self._walks(start, query, last.index_select(0, path), columns, facts, end)

    def _walks(
        self,
        start: Tensor,
        query: Tensor,
        last: Tensor,
        first: tuple[Tensor, Tensor] | None,
        facts: UniqueRows,
        end: Tensor,
    ) -> Walks:
        """Walks with this start, query and last fact, (num_walks,) each; the same start stands together."""
        starts, length = torch.unique_consecutive(start, return_counts=True)
        pairs, pair = unique_inverse(query * self.num_rows + end.index_select(0, last))
        self.pairs.append(pairs)
        of_query, of_first = starts, None
        if first is not None:
            of_query = starts // max(1, len(first[0]))
            of_first = UniqueRows(first, starts % max(1, len(first[0])))
        pattern = CSRPattern.of(csr_offsets(length), last, len(end))
        return Walks(len(pairs), of_query, of_first, facts, end, pattern, pair, None, None)

    def _readers(self, facts: Recent, by_query: bool) -> tuple[Tensor, ...]:
        """The queries that read facts of subjects, and the facts."""
        query, fact = self._join_queries(facts.row)
        if not by_query:
            return query, fact
        relation = (facts.item // self.num_rows).index_select(0, fact)
        return select(relation != self.relation.index_select(0, query), query, fact)

    def _join_queries(self, subject: Tensor) -> tuple[Tensor, Tensor]:
        """Join queries to what their subjects have, given by subject in ascending order."""
        return join_groups(subject, len(self.found.groups.subjects), self.found.groups.of_subject)

    def _drawn(self, sample: Sample, facts: Recent, subjects: Tensor) -> tuple[Recent, Recent]:
        """The facts whose candidates are drawn, and those of the others that are columns."""
        row = facts.item % self.num_rows
        drawn = sample.includes(subjects.index_select(0, facts.row), row, sample.draws(row))
        return facts.where(drawn), facts.where(~drawn & sample.has_column(row))

    def _exclude(self, query: Tensor, row: Tensor) -> None:
        self.excluded.append(query * self.num_rows + row)
