"""How the history attention walks what was looked up: all its index arithmetic, which depends on the data alone.

So it is the same in every epoch, and what is made in one can be kept for the next.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gam_kg.data.past import NUM_BUCKETS, History, PairHistory, PathHistory, Popularity
from gam_kg.data.ragged import distinct_index
from gam_kg.data.snapshot import Queries
from gam_kg.nn.links import Links, link_runs


@dataclass(frozen=True)
class Kinds:
    """Rows of several columns that differ in few ways.

    Attributes:
        columns: The distinct combinations, int64 (num_kinds,) a column.
        kind: Which of them each row has, int64 (num_rows,).
    """

    columns: tuple[Tensor, ...]
    kind: Tensor

    @classmethod
    def of(cls, columns: Sequence[Tensor], size: int) -> "Kinds":
        """The kinds of rows.

        Args:
            columns: int64 (num_rows,) each; values of all but the first are below `size`.
            size: Above all values of all columns but the first.
        """
        code = columns[0]
        for column in columns[1:]:
            code = code * size + column
        distinct, kind = distinct_index(code)
        row = torch.arange(len(code), device=code.device)
        example = torch.empty_like(distinct).scatter_(0, kind, row)  # any of those alike
        return cls(tuple(column.index_select(0, example) for column in columns), kind)


@dataclass(frozen=True)
class PairPlan:
    """How `PairAttention` walks a `PairHistory`.

    Attributes:
        end: Where each entry ends among the rows that are given, int64 (num_entries,).
        entries: Kinds of entries: relation, recency, count, whether it is that of the query.
        run_query: Query of each run of links, int64 (num_runs,).
        links: Joins runs to entries.
        link_kind, link_pair: Kind of entry and pair of each link, int64 (num_links,).
        pair_query, pair_other: The pairs, int64 (num_pairs,).
        features: Kinds of pairs: relation of the query and the four buckets.
    """

    end: Tensor
    entries: Kinds
    run_query: Tensor
    links: Links
    link_kind: Tensor
    link_pair: Tensor
    pair_query: Tensor
    pair_other: Tensor
    features: Kinds

    @classmethod
    def of(cls, past: PairHistory, end: Tensor, relation: Tensor) -> "PairPlan":
        """Plan the pairs of queries with these relations, int64 (num_queries,); other arguments as the attributes."""
        columns = (past.entry_relation, past.entry_recency, past.entry_count, past.entry_same.long())
        entries = Kinds.of(columns, NUM_BUCKETS)
        run_query, offsets = link_runs(past.link_query)
        asked = relation.index_select(0, past.pair_query)
        return cls(
            end,
            entries,
            run_query,
            Links.of(offsets, past.link_entry, len(end)),
            entries.kind.index_select(0, past.link_entry),
            past.link_pair,
            past.pair_query,
            past.pair_other,
            Kinds.of((asked, *past.pair_features.unbind(1)), NUM_BUCKETS + 1),
        )


@dataclass(frozen=True)
class PathPlan:
    """How `PathAttention` walks a `PathHistory`.

    Attributes:
        end: Where each second hop ends among the rows that are given, int64 (num_second,).
        first_relation, first_recency: Of the first hops, int64 (num_first,).
        second_relation, second_recency, second_count: Of the second hops, int64 (num_second,).
        run_query, run_first: Query and first hop of each run of links, int64 (num_runs,).
        links: Joins runs to second hops.
        link_pair: Pair of each link, int64 (num_links,).
        pair_query, pair_other: The pairs, int64 (num_pairs,).
    """

    end: Tensor
    first_relation: Tensor
    first_recency: Tensor
    second_relation: Tensor
    second_recency: Tensor
    second_count: Tensor
    run_query: Tensor
    run_first: Tensor
    links: Links
    link_pair: Tensor
    pair_query: Tensor
    pair_other: Tensor

    @classmethod
    def of(cls, past: PathHistory, end: Tensor) -> "PathPlan":
        """Plan the paths; arguments as the attributes."""
        # The paths of a query over one first fact share the left side of their product.
        num_first = max(1, len(past.first_relation))
        run, offsets = link_runs(past.link_query * num_first + past.path_first.index_select(0, past.link_path))
        return cls(
            end,
            past.first_relation,
            past.first_recency,
            past.second_relation,
            past.second_recency,
            past.second_count,
            run // num_first,
            run % num_first,
            Links.of(offsets, past.path_second.index_select(0, past.link_path), len(end)),
            past.link_pair,
            past.pair_query,
            past.pair_other,
        )


@dataclass(frozen=True)
class PopularityPlan:
    """How `PopularityScore` walks a `Popularity`.

    Attributes:
        past: What it walks.
        kind: Of each entry, recency and count in one number, int64 (num_rows,).
        run_relation: Relation of each run of entries, int64 (num_runs,).
        links: Joins runs to kinds.
    """

    past: Popularity
    kind: Tensor
    run_relation: Tensor
    links: Links

    @classmethod
    def of(cls, past: Popularity) -> "PopularityPlan":
        """Plan the popularity."""
        kind = past.recency * NUM_BUCKETS + past.count
        run, offsets = link_runs(past.row)
        return cls(past, kind, past.relations.index_select(0, run), Links.of(offsets, kind, NUM_BUCKETS**2))


@dataclass(frozen=True)
class HistoryPlan:
    """How all queries of a snapshot walk their past; None for a part that is switched off.

    Attributes:
        ends: The distinct candidates in which facts and paths end, whose vectors attention needs, int64 (num_ends,),
            ascending. The plans tell ends by their place here.
        pairs, paths, popularity: The parts.
    """

    ends: Tensor
    pairs: PairPlan | None
    paths: PathPlan | None
    popularity: PopularityPlan | None

    @classmethod
    def of(cls, history: History, queries: Queries, num_rows: int) -> "HistoryPlan":
        """Plan what was looked up.

        Args:
            history: What the history index found.
            queries: For which queries.
            num_rows: Candidates of the rank.
        """
        pairs, paths, popularity = history.pairs, history.paths, history.popularity
        is_end = torch.zeros(num_rows, dtype=torch.bool, device=queries.subject.device)
        if pairs is not None:
            is_end.index_fill_(0, pairs.entry_other, True)
        if paths is not None:
            is_end.index_fill_(0, paths.second_other, True)
        place = torch.cumsum(is_end, 0) - 1
        return cls(
            torch.nonzero(is_end)[:, 0],
            None if pairs is None else PairPlan.of(pairs, place.index_select(0, pairs.entry_other), queries.relation),
            None if paths is None else PathPlan.of(paths, place.index_select(0, paths.second_other)),
            None if popularity is None else PopularityPlan.of(popularity),
        )
