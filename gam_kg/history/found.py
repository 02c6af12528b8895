"""What a look-up in the history index requests and what it finds, before facts are joined to the queries."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gam_kg.graph.snapshot import Queries
from gam_kg.history.recency import Recent
from gam_kg.ops.ragged import select, unique_inverse


@dataclass(frozen=True)
class QueryGroups:
    """The distinct subjects and relations of queries.

    Attributes:
        queries: The queries.
        subjects, relations: Distinct, ascending, int64 (num_subjects,) and (num_relations,).
        of_subject, of_relation: Which of them each query has, int64 (num_queries,).
    """

    queries: Queries
    subjects: Tensor
    of_subject: Tensor
    relations: Tensor
    of_relation: Tensor

    @classmethod
    def of(cls, queries: Queries) -> "QueryGroups":
        """The groups of queries."""
        return cls(queries, *unique_inverse(queries.subject), *unique_inverse(queries.relation))


@dataclass(frozen=True)
class Hops:
    """First hops of two-hop paths: the most recent facts (subject, relation, neighbour) of each subject.

    Attributes:
        row: Which of the subjects each starts from, int64 (num_hops,), ascending.
        relation, last: int64 (num_hops,).
        neighbours: Distinct neighbours, by id, ascending, int64 (num_neighbours,).
        of_neighbour: Which of them each hop leads to, int64 (num_hops,).
    """

    row: Tensor
    relation: Tensor
    last: Tensor
    neighbours: Tensor
    of_neighbour: Tensor


@dataclass(frozen=True)
class SubjectPast:
    """What was found for some subjects at one time, to be used again until the next snapshot is inserted.

    Attributes:
        subjects: Distinct, ascending, int64 (num_subjects,).
        recent: Facts by subject.
        bodies: Bodies of rules, alike on all ranks; None where rules are switched off.
        hops: First hops of paths, likewise; None where paths are switched off.
    """

    subjects: Tensor
    recent: Recent
    bodies: Hops | None
    hops: Hops | None


@dataclass(frozen=True)
class Bodies:
    """The bodies of queries. A group, `(r' * num_entities + c') * num_relations + r`, stands for (r', c') → r.

    Attributes:
        facts: Bodies of the distinct subjects.
        own_row: Row of c' of each of these in the shard, -1 for those of other ranks, int64 (num_facts,).
        query, fact: Which query has which of the facts as a body, int64 (num_bodies,), ascending by query.
        group: int64 (num_bodies,).
    """

    facts: Hops
    own_row: Tensor
    query: Tensor
    fact: Tensor
    group: Tensor


@dataclass(frozen=True)
class Heads:
    """The answers to which rules lead.

    Attributes:
        row: Position of the group in the request, int64 (num_found,), ascending.
        item: Row of the answer in the shard, int64 (num_found,).
        hits, exposures: Counts of the rule so far, int64 (num_found,).
    """

    row: Tensor
    item: Tensor
    hits: Tensor
    exposures: Tensor

    def where(self, mask: Tensor) -> "Heads":
        """The heads at which a mask is true, bool (num_found,)."""
        return Heads(*select(mask, *vars(self).values()))


@dataclass(frozen=True)
class PastAnswers:
    """All past answers of queries that were looked up, over all ranks.

    Attributes:
        last: When each query last had one, -1: never, int64 (num_queries,).
        count: In how many snapshots it had each, summed, int64 (num_queries,).
        distinct: How many they are, int64 (num_queries,).
    """

    last: Tensor
    count: Tensor
    distinct: Tensor

    @classmethod
    def of(cls, found: Recent, num_queries: int, total: Callable[[Tensor], Tensor]) -> "PastAnswers":
        """Put together what the ranks have found.

        Args:
            found: All past answers to some of the queries, by query: those of each query on one rank.
            num_queries: Number of queries.
            total: Sum over ranks, in place.
        """
        columns = torch.zeros(3, num_queries, dtype=torch.int64)
        columns[0].scatter_reduce_(0, found.row, found.last + 1, "amax")
        columns[1].index_add_(0, found.row, found.count)
        columns[2].index_add_(0, found.row, torch.ones_like(found.count))
        last, count, distinct = total(columns)
        return cls(last - 1, count, distinct)


@dataclass(frozen=True)
class Found:
    """What an index has for queries, not yet joined to each of them.

    Items of `recent` and `second` are `relation * num_rows + row`, of the others rows of the shard.

    Attributes:
        groups: The queries.
        num_rows: Rows of the shard, at least 1.
        own_row: Row of each subject in the shard, -1 for those of other ranks, int64 (num_subjects,).
        recent: Facts by subject.
        same_relation: Answers by query.
        answers: What the queries' answers of all ranks are together.
        hops: First hops of paths; None where paths are switched off.
        second: Facts by neighbour; likewise.
        popular: Answers by relation; None where popularity is switched off.
        rules: Rules of shared facts, with the most frequent answers of each body; None where they are switched off.
        every_rule: Pair (`query * num_rows + row`) and confidence of each rule of shared facts, int64 and float64
            (num_rules,); None where these or `rule_confidence` are off.
        pair_rules: The same of rules of pairs; None where `rule_confidence` is off.
    """

    groups: QueryGroups
    num_rows: int
    own_row: Tensor
    recent: Recent
    same_relation: Recent
    answers: PastAnswers
    hops: Hops | None
    second: Recent | None
    popular: Recent | None
    rules: tuple[Bodies, Heads] | None
    every_rule: tuple[Tensor, Tensor] | None
    pair_rules: tuple[Tensor, Tensor] | None

    @property
    def known_answers(self) -> tuple[Tensor, Tensor]:
        """Subjects and rows of past answers to the queries, int64 (num_known,) each."""
        same = self.same_relation
        return self.groups.queries.subject.index_select(0, same.row), same.item

    @property
    def num_walks(self) -> int:
        """About how many facts, paths and rules queries have; summed over ranks, it is the count of a world of one."""
        of_subject = torch.bincount(self.recent.row, minlength=len(self.groups.subjects))
        if self.hops is not None and self.second is not None:
            seconds = torch.bincount(self.second.row, minlength=len(self.hops.neighbours))
            of_subject.index_add_(0, self.hops.row, seconds.index_select(0, self.hops.of_neighbour))
        num_rules = 0 if self.rules is None else len(self.rules[1].row)
        return int(of_subject.index_select(0, self.groups.of_subject).sum()) + len(self.same_relation.row) + num_rules
