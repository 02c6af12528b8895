"""A snapshot (all anchored facts of one time unit) and the queries that it answers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from gam_kg.ops.ragged import ragged_ranges, row_ranges, sort_with_positions


@dataclass(frozen=True)
class Queries:
    """The queries of one snapshot: each distinct (subject, relation, ?) once, with all its answers.

    Attributes:
        time: The snapshot that the queries are about.
        subject: int64 (num_queries,).
        relation: int64 (num_queries,); `>= num_relations` queries the subject of the stored fact.
        answer_query: Which query each answer belongs to, int64 (num_answers,), ascending.
        answer: Entity ids, int64 (num_answers,).
        horizon: How many snapshots after the last visible one `time` is; 1: the next one.
    """

    time: int
    subject: Tensor
    relation: Tensor
    answer_query: Tensor
    answer: Tensor
    horizon: int = 1

    def __len__(self) -> int:
        return len(self.subject)

    @property
    def now(self) -> int:
        """The snapshot after the last visible one, from which recency is counted back; at horizon 1 it is `time`."""
        return self.time - self.horizon + 1

    def seen_from(self, now: int) -> "Queries":
        """The same queries when the facts before a snapshot, `time` at most, are visible."""
        return replace(self, horizon=self.time - now + 1)

    @classmethod
    def of(cls, time: int, rows: Tensor) -> "Queries":
        """Queries and answers of rows (subject, relation, answer), int64 (3, num_rows), in any order, with duplicates.

        They are sorted by subject, relation and answer.
        """
        rows = rows[:, lexical_order(*rows)]
        changed = torch.ones_like(rows, dtype=torch.bool)
        changed[:, 1:] = rows[:, 1:] != rows[:, :-1]
        new_query = changed[:2].any(0)
        distinct = new_query | changed[2]
        answer_query = torch.cumsum(new_query, 0)[distinct] - 1
        subject, relation = rows[:2, new_query]
        return cls(time, subject, relation, answer_query, rows[2, distinct])

    @classmethod
    def together(cls, parts: Sequence["Queries"]) -> "Queries":
        """Queries of several snapshots one after another, with the time and the horizon of the first."""
        first, *_ = parts
        starts = accumulate((len(part) for part in parts), initial=0)
        answer_query = torch.cat([part.answer_query + start for part, start in zip(parts, starts, strict=False)])
        columns = (torch.cat([getattr(part, name) for part in parts]) for name in ("subject", "relation", "answer"))
        subject, relation, answer = columns
        return replace(first, subject=subject, relation=relation, answer_query=answer_query, answer=answer)

    def select(self, rows: Tensor) -> "Queries":
        """The queries at some positions, int64 (num_selected,), in the order given, with all their answers."""
        start, length = row_ranges(self.answer_query, len(self))
        answer_query, position = ragged_ranges(start[rows], length[rows])
        subject, relation = self.subject[rows], self.relation[rows]
        return replace(
            self, subject=subject, relation=relation, answer_query=answer_query, answer=self.answer[position]
        )


@dataclass(frozen=True)
class Snapshot:
    """All anchored facts of one time unit.

    Attributes:
        time: Snapshot number.
        anchor: Entity that owns the row and receives its message, int64 (num_rows,), ascending.
        relation: int64 (num_rows,), in `[0, 2 * num_relations)`.
        other: Entity that sends the message, int64 (num_rows,).
        num_relations: Number of relations without inverses.
        gathered: Queries of all ranks; None in a world of one.
    """

    time: int
    anchor: Tensor
    relation: Tensor
    other: Tensor
    num_relations: int
    gathered: Queries | None = None

    @property
    def queries(self) -> Queries:
        """Queries of all ranks."""
        return self.own_queries if self.gathered is None else self.gathered

    @cached_property
    def active(self) -> Tensor:
        """Distinct anchors, ascending, int64 (num_active,)."""
        return torch.unique_consecutive(self.anchor)

    @cached_property
    def own_queries(self) -> Queries:
        """Queries that the rows answer: `other` is an answer to (anchor, inverse relation, ?)."""
        relation = inverse_relation(self.relation, self.num_relations)
        return Queries.of(self.time, torch.stack([self.anchor, relation, self.other]))

    def __len__(self) -> int:
        return len(self.anchor)


def inverse_relation(relation: Tensor, num_relations: int) -> Tensor:
    """Inverses of relations in `[0, 2 * num_relations)`; the inverse of an inverse is the relation itself."""
    return torch.where(relation < num_relations, relation + num_relations, relation - num_relations)


def lexical_order(*columns: Tensor) -> Tensor:
    """Order by the first column, ties by the second, and so on."""
    _, order = sort_with_positions(columns[-1])
    for column in reversed(columns[:-1]):
        order = order[sort_with_positions(column[order])[1]]
    return order
