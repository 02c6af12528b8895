"""Tables of relations: a row for each relation, one for each inverse, and two for those that have no facts in training.

Shared rows are zero at the start, which says of a relation only what holds for all; random rows would have to be
unlearned first.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from gam_kg.history.query_kinds import QueryKinds


def relation_table(num_relations: int, dim: int, std: float) -> nn.Parameter:
    """A table of `num_relations` random rows, those of relations and inverses, of this deviation, and shared rows."""
    return nn.Parameter(with_shared_rows(torch.randn(num_relations, dim) * std))


class RelationRows(nn.Module):
    """A row for each relation, which changes with the horizon h of the query: rows[r] + log2(h) slope[r].

    Args:
        num_relations: Relations with inverses.
        dim: Length of a row.
        std: Of the rows at the start; slopes start at zero.
    """

    def __init__(self, num_relations: int, dim: int, std: float) -> None:
        super().__init__()
        self.rows = relation_table(num_relations, dim, std)
        self.slope = nn.Parameter(torch.zeros_like(self.rows))

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.rows, self.slope))


def rows_of_kinds(kinds: QueryKinds, *tables: Iterable[Tensor], of: Tensor | None = None) -> tuple[Tensor, ...]:
    """The rows of kinds of queries in several tables, (num_requested, dim) each.

    Args:
        kinds: The kinds, with rows of relations.
        tables: The tables, rows and slopes each, see `RelationRows`.
        of: Which of the kinds, (num_requested,); None: all.
    """
    # All tables at once: the operators of a step take longer to start than their work does.
    rows, slopes = zip(*tables, strict=True)
    widths = [one.shape[1] for one in rows]
    row, slope = (torch.cat(one, 1).index_select(0, kinds.relation) for one in (rows, slopes))
    found = torch.addcmul(row, torch.log2(kinds.horizon.to(row.dtype))[:, None], slope)
    return (found if of is None else found.index_select(0, of)).split(widths, 1)


def with_shared_rows(rows: Tensor) -> Tensor:
    """A table of the rows of relations and inverses, (num_relations, dim), and shared rows."""
    return torch.cat([rows, rows.new_zeros(2, rows.shape[1])])


def grown(table: Tensor, before: int, after: int) -> Tensor:
    """A table with rows of zeros for new relations and inverses, which read the shared rows; others keep their values.

    Args:
        table: (2 * before + 2, dim).
        before: Number of relations without inverses that have rows.
        after: Number of those that will have.
    """
    rows = table.new_zeros(2 * after + 2, table.shape[1])
    for old, new in ((0, 0), (before, after)):
        rows[new : new + before] = table[old : old + before]
    rows[-2:] = table[-2:]
    return rows


def rows_of_relations(own: Tensor) -> Tensor:
    """Where relations, and then inverses, have their rows in tables, int64 (2 * num_relations,).

    Args:
        own: Whether a relation and its inverse have rows of their own, bool (num_relations,); otherwise it has the
            last row but one, and its inverse the last.
    """
    number = len(own)
    relation = torch.arange(number, device=own.device)
    return torch.cat([torch.where(own, relation, 2 * number), torch.where(own, relation + number, 2 * number + 1)])
