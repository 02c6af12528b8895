"""What a look-up of the history index is asked and what it finds, before and after it is joined to the queries."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gam_kg.data.past import PairHistory, PathHistory
from gam_kg.data.popular import Popular
from gam_kg.data.ragged import distinct_index
from gam_kg.data.recency import Cut, Recent
from gam_kg.data.snapshot import Queries


class Wanted(Protocol):
    """Which of the candidates that histories have are wanted. Candidates are told by rows of the shard."""

    def coins(self, rows: Tensor) -> Tensor:
        """What was tossed for candidates, (num_asked,)."""
        ...

    def may_meet(self, rows: Tensor, coins: Tensor) -> Tensor:
        """Whether there may be subjects whose queries want candidates, bool (num_asked,)."""
        ...

    def meets(self, subject: Tensor, rows: Tensor, coins: Tensor) -> Tensor:
        """Whether queries about subjects want candidates, bool (num_asked,)."""
        ...

    def is_shared(self, rows: Tensor) -> Tensor:
        """Whether all queries meet candidates that none of their histories has, bool (num_asked,)."""
        ...


@dataclass(frozen=True)
class Hops:
    """First hops of two-hop paths.

    Attributes:
        row: Which of the subjects each starts from, int64 (num_hops,), ascending.
        relation, neighbour, last: Past fact (subject, relation, neighbour), neighbours by id, int64 (num_hops,).
    """

    row: Tensor
    relation: Tensor
    neighbour: Tensor
    last: Tensor


@dataclass(frozen=True)
class Asked:
    """The distinct subjects and relations of queries.

    Attributes:
        queries: The queries.
        subjects, relations: Distinct, int64 (num_subjects,) and (num_relations,).
        subject_row, relation_row: Place of each query's, int64 (num_queries,).
    """

    queries: Queries
    subjects: Tensor
    subject_row: Tensor
    relations: Tensor
    relation_row: Tensor

    @classmethod
    def of(cls, queries: Queries) -> "Asked":
        subjects, subject_row = distinct_index(queries.subject)
        relations, relation_row = distinct_index(queries.relation)
        return cls(queries, subjects, subject_row, relations, relation_row)


@dataclass(frozen=True)
class Reach:
    """How far back each look-up goes: a number of items, or where the rank has not all of them, the least one.

    Attributes:
        recent: By subject.
        same_relation: By query.
        popular: By relation.
        hops: First hops; None where paths are switched off, or where they are still to be taken from the recent facts.
        neighbours: Their distinct ends, int64 (num_neighbours,), and the place of each hop's, int64 (num_hops,).
        second: By neighbour.
    """

    recent: int | Cut
    same_relation: int | Cut
    popular: int | Cut
    hops: Hops | None
    neighbours: tuple[Tensor, Tensor] | None
    second: int | Cut


@dataclass(frozen=True)
class Found:
    """What an index has for queries, before it is joined to each of them.

    Attributes:
        asked: The queries.
        reach: How far back it was looked.
        recent: By subject.
        same_relation: By query.
        second: By neighbour; None where paths are switched off.
    """

    asked: Asked
    reach: Reach
    recent: Recent
    same_relation: Recent
    second: Recent | None

    @property
    def known_answers(self) -> tuple[Tensor, Tensor]:
        """Subjects of the queries and candidates that answered the same before, by row, int64 (num_known,) each."""
        same = self.same_relation
        return self.asked.queries.subject.index_select(0, same.row), same.item

    @property
    def num_links(self) -> int:
        """About how many facts and paths the queries would read, over ranks exactly so many as over one."""
        of_subject = torch.bincount(self.recent.row, minlength=len(self.asked.subjects))
        hops = self.reach.hops
        if hops is not None and self.second is not None and self.reach.neighbours is not None:
            neighbours, neighbour_row = self.reach.neighbours
            of_hop = torch.bincount(self.second.row, minlength=len(neighbours)).index_select(0, neighbour_row)
            of_subject.index_add_(0, hops.row, of_hop)
        return int(of_subject.index_select(0, self.asked.subject_row).sum()) + len(self.same_relation.row)


@dataclass(frozen=True)
class Missed:
    """Candidates that histories have and that are not wanted, each any number of times.

    Attributes:
        query, other: int64 (num_missed,).
    """

    query: Tensor
    other: Tensor


@dataclass(frozen=True)
class SampledHistory:
    """What queries read of the past where some candidates are wanted; None for a part that is switched off.

    Attributes:
        pairs, paths: Of the candidates that are wanted.
        popular: Of all candidates, as far as it is asked.
        relation_row: Which of the relations of `popular` each query asks about, int64 (num_queries,).
        missed: Of the others, those that all queries share.
    """

    pairs: PairHistory | None
    paths: PathHistory | None
    popular: Popular | None
    relation_row: Tensor
    missed: Sequence[Missed]
