"""A snapshot, all anchored facts of one time unit, and the questions that are read off it."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gam_kg.data.ragged import offsets_of, ragged_ranges


@dataclass(frozen=True)
class Queries:
    """The questions of one snapshot: each distinct (subject, relation, ?) once, with all its answers.

    Attributes:
        time: The snapshot asked about.
        subject: int64 (num_queries,).
        relation: int64 (num_queries,); `>= num_relations` asks for the subject of the stored fact.
        answer_query: Which query each answer belongs to, int64 (num_answers,), ascending.
        answer: Entity ids, int64 (num_answers,).
    """

    time: int
    subject: Tensor
    relation: Tensor
    answer_query: Tensor
    answer: Tensor

    def __len__(self) -> int:
        return len(self.subject)

    @classmethod
    def of(cls, time: int, rows: Tensor) -> "Queries":
        """The queries that rows ask and answer, sorted by subject, relation and answer.

        Args:
            time: The snapshot asked about.
            rows: Subject, relation and answer, int64 (3, num_rows), in any order and any number of times.
        """
        rows = rows[:, lexical_order(*rows)]
        changed = torch.ones_like(rows, dtype=torch.bool)
        changed[:, 1:] = rows[:, 1:] != rows[:, :-1]
        asked = changed[:2].any(0)
        distinct = asked | changed[2]
        answer_query = torch.cumsum(asked, 0)[distinct] - 1
        return cls(time, *rows[:2, asked], answer_query, rows[2, distinct])

    def select(self, rows: Tensor) -> "Queries":
        """Some of the queries, in the order given, with all their answers.

        Args:
            rows: Positions of queries, int64 (num_selected,).
        """
        start, length = offsets_of(self.answer_query, len(self))
        answer_query, position = ragged_ranges(start[rows], length[rows])
        return Queries(self.time, self.subject[rows], self.relation[rows], answer_query, self.answer[position])


@dataclass(frozen=True)
class Snapshot:
    """All anchored facts of one time unit.

    Attributes:
        time: Snapshot number.
        anchor: Entity that owns the row and receives its message, int64 (num_rows,), ascending.
        relation: int64 (num_rows,), in `[0, 2 * num_relations)`.
        other: Entity that sends the message, int64 (num_rows,).
        num_relations: Number of relations without inverses.
    """

    time: int
    anchor: Tensor
    relation: Tensor
    other: Tensor
    num_relations: int

    @cached_property
    def active(self) -> Tensor:
        """Distinct anchors, ascending, int64 (num_active,)."""
        return torch.unique_consecutive(self.anchor)

    @cached_property
    def queries(self) -> Queries:
        """The questions read off the rows: (anchor, inverse relation, ?) is answered by `other`."""
        relation = inverse_relation(self.relation, self.num_relations)
        return Queries.of(self.time, torch.stack([self.anchor, relation, self.other]))

    def __len__(self) -> int:
        return len(self.anchor)


@dataclass(frozen=True)
class Moment:
    """A snapshot as a rank sees it.

    Attributes:
        snapshot: The rank's facts.
        gathered: The questions of all ranks; None in a world of one.
    """

    snapshot: Snapshot
    gathered: Queries | None = None

    @property
    def queries(self) -> Queries:
        """The questions of all ranks."""
        return self.snapshot.queries if self.gathered is None else self.gathered

    @property
    def time(self) -> int:
        """The snapshot's number."""
        return self.snapshot.time


def inverse_relation(relation: Tensor, num_relations: int) -> Tensor:
    """Inverse relations; the inverse of an inverse is the relation itself.

    Args:
        relation: Ids in [0, 2 * num_relations).
        num_relations: Relations, without the inverse ones.
    """
    return torch.where(relation < num_relations, relation + num_relations, relation - num_relations)


def lexical_order(*columns: Tensor) -> Tensor:
    """Order by the first column, ties by the second, and so on."""
    order = torch.argsort(columns[-1], stable=True)
    for column in reversed(columns[:-1]):
        order = order[torch.argsort(column[order], stable=True)]
    return order
