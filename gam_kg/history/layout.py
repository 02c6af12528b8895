"""The layout of scores: which candidates queries are scored against, and what of the past each score reads.

Scores lie in one vector: the table (num_queries, num_columns) of columns, which all queries share, then the pairs that
are scored apart, each of one query alone. 1-vs-all has all rows of the shard as columns and no pairs apart.
"""

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor

from gam_kg.history.bins import NUM_BINS, log_bin
from gam_kg.history.confidence import Confidences
from gam_kg.history.found import Found
from gam_kg.history.index import HistoryIndex
from gam_kg.history.pair_features import query_feature
from gam_kg.history.query_kinds import QueryKinds
from gam_kg.history.recency import RecencyIndex, Recent
from gam_kg.history.rule_walks import RuleWalks
from gam_kg.history.sampling import Sample
from gam_kg.history.walks import Joined, Walks
from gam_kg.ops.counter_rng import RowRNG
from gam_kg.ops.dimensions import Along, Number, Within
from gam_kg.ops.ragged import UniqueRows, join_groups, places_in, select, unique, unique_inverse
from gam_kg.ops.sparse import CSRPattern, csr_offsets, rows_from_runs


@dataclass(frozen=True)
class Positions:
    """Where scores of pairs are added in the vector, by what is added, (num_pairs,) each; None: nothing is.

    Attributes:
        apart: Products of queries and pairs apart.
        facts, paths, rules, confidences, popularity: See `ScoreLayout`; of popularity, that of pairs apart.
    """

    apart: Annotated[Tensor | None, Along("apart", "scores")]
    facts: Annotated[Tensor | None, Along("facts", "scores")]
    paths: Annotated[Tensor | None, Along("paths", "scores")]
    rules: Annotated[Tensor | None, Along("rules", "scores")]
    confidences: Annotated[Tensor | None, Along("confidences", "scores")]
    popularity: Annotated[Tensor | None, Along("popularity", "scores")]


@dataclass(frozen=True)
class PopularObjects:
    """Objects recently seen with the relations of kinds of queries.

    Attributes:
        kind: Kind of each start, a run of objects of one kind, (num_starts,).
        pattern: Joins starts to bins, `recency * NUM_BINS + count`, one entry per object.
    """

    kind: Annotated[Tensor, Along(".starts", "kinds")]
    pattern: Annotated[CSRPattern, Within(rows=".starts", columns=None, entries=".objects")]


@dataclass(frozen=True)
class Popularity:
    """Objects recently seen with the queries' relations.

    Attributes:
        num_kinds: Number of kinds of queries.
        of_query: Kind of each query, (num_queries,).
        columns: Objects that are columns.
        cell: Their places in a table (num_kinds, num_columns), (num_objects,).
        apart: Objects in pairs apart; None where nothing is apart.
    """

    num_kinds: Annotated[int, Number("kinds")]
    of_query: Annotated[Tensor, Along("queries", "kinds")]
    columns: PopularObjects
    cell: Annotated[Tensor, Along(".columns.objects", "kind cells")]
    apart: PopularObjects | None

    def by_query(self, num_columns: int) -> tuple[Tensor, Tensor]:
        """For all queries: table positions that get a popularity score, and the index of that score; (num_entries,)."""
        query, object_ = join_groups(self.cell // num_columns, self.num_kinds, self.of_query)
        return query * num_columns + (self.cell % num_columns).index_select(0, object_), object_


POSITIONS = Within(
    facts=".facts.pairs",
    paths=".paths.pairs",
    rules=".rules.pairs",
    confidences=".confidences.pairs",
    popularity=".popularity.apart.objects",
)


@dataclass(frozen=True)
class ScoreLayout:
    """All integers that scoring some queries takes.

    Attributes:
        num_queries, num_columns: Size of the table.
        kinds: Kinds of the queries of all ranks.
        kind: Kind of each of the rank's own queries (those of its subjects), (num_own_queries,).
        subject: Their subjects, (num_own_queries,).
        past: Their past, the feature "query" of `pair_features`, (num_own_queries,).
        row: Rows of z of their subjects, (num_own_queries,).
        columns: Rows of z that are columns, (num_columns,); None: all.
        ends: Rows of z in which walks end, (num_ends,).
        facts, paths: Walks of one and of two facts; None where they are switched off.
        rules: Rules; None where they are switched off.
        confidences: What rules say together; None where that is switched off.
        popularity: None where it is switched off.
        apart: Joins queries to the rows of z of pairs that are scored apart; None: there are none.
        positions: Where scores of pairs are added in the vector.
        rng: Random numbers of the rank's own queries in a training step; None outside training.
    """

    num_queries: Annotated[int, Number("queries")]
    num_columns: Annotated[int, Number("columns")]
    kinds: QueryKinds
    kind: Annotated[Tensor, Along("own queries", "kinds")]
    subject: Annotated[Tensor, Along("own queries")]
    past: Annotated[Tensor, Along("own queries")]
    row: Annotated[Tensor, Along("own queries", "rows")]
    columns: Annotated[Tensor | None, Along("columns", "rows")]
    ends: Annotated[Tensor, Along("ends", "rows")]
    facts: Walks | None
    paths: Walks | None
    rules: RuleWalks | None
    confidences: Confidences | None
    popularity: Popularity | None
    apart: Annotated[CSRPattern | None, Within(rows="queries", columns="rows", entries="apart")]
    positions: Annotated[Positions, POSITIONS]
    rng: Annotated[RowRNG | None, Within(rows="own queries")] = None

    @property
    def relation(self) -> Tensor:
        """Relation of each of the rank's own queries, or its row in tables of relations, (num_own_queries,)."""
        return self.kinds.relation.index_select(0, self.kind)

    @property
    def all_positions(self) -> Tensor:
        """All `positions`, one after another, (num_added,)."""
        return torch.cat([self.row[:0], *(part for part in vars(self.positions).values() if part is not None)])

    @property
    def num_apart(self) -> int:
        """Number of pairs that are scored apart."""
        return 0 if self.apart is None else len(self.apart.column)

    def with_relation_rows(self, row: Tensor) -> "ScoreLayout":
        """The layout with the rows of relations, `row` (2 * num_relations,), in place of the relations."""

        def rows_of(relation: Tensor) -> Tensor:
            return row.index_select(0, relation)

        def first_of(found: UniqueRows | None) -> UniqueRows | None:
            return found and replace(found, columns=(rows_of(found.columns[0]), *found.columns[1:]))

        def of_walks(walks: Walks | None) -> Walks | None:
            return walks and replace(
                walks,
                first=first_of(walks.first),
                facts=first_of(walks.facts),
            )

        return replace(
            self,
            kinds=replace(self.kinds, relation=rows_of(self.kinds.relation)),
            facts=of_walks(self.facts),
            paths=of_walks(self.paths),
            rules=self.rules and replace(self.rules, body=first_of(self.rules.body)),
        )


@dataclass(frozen=True)
class Slots:
    """Where in the vector of scores the pairs of queries and candidates lie. Pairs are `query * num_rows + row`.

    Attributes:
        num_queries, num_columns: Size of the table.
        num_rows: Rows of the shard, at least 1.
        sample: The columns; None: all rows, and then all pairs lie in the table.
        apart: Pairs apart, ascending, (num_apart,). Without a sample none; with one the drawn pairs of the past, and
            the answers. Pairs of the past that were not drawn are in `Joined.excluded` if they are columns.
    """

    num_queries: int
    num_columns: int
    num_rows: int
    sample: Sample | None
    apart: Tensor

    @classmethod
    def of(cls, joined: Joined, answers: Tensor, num_rows: int, sample: Sample | None) -> "Slots":
        """The slots of queries.

        Args:
            joined: The past of the queries.
            answers: Pairs of the rank's answers.
            num_rows: Rows of the shard.
            sample: The sample of the step; None: all rows are columns.
        """
        num_queries = len(joined.found.groups.queries)
        if sample is None:
            return cls(num_queries, num_rows, joined.found.num_rows, None, answers[:0])
        apart = unique(torch.cat([*joined.pairs, answers]))
        return cls(num_queries, len(sample.column_rows), joined.found.num_rows, sample, apart)

    def positions(self, pairs: Tensor) -> Tensor:
        """Positions of pairs in the vector, (num_pairs,); with a sample, the pairs are among those apart."""
        return pairs if self.sample is None else self.first_apart + places_in(self.apart, pairs)

    @property
    def first_apart(self) -> int:
        """Position of the first pair apart."""
        return self.num_queries * self.num_columns

    def masked(self, excluded: Tensor) -> Tensor:
        """Table positions to ignore, (num_masked,): pairs scored apart, and past pairs that were not drawn."""
        if self.sample is None:
            return excluded
        pairs = torch.cat([self.apart, excluded])
        column = self.sample.column.index_select(0, pairs % self.num_rows)
        return select(column >= 0, pairs // self.num_rows * self.num_columns + column)[0]


def lay_out(history: HistoryIndex, joined: Joined, slots: Slots) -> ScoreLayout:
    """The layout of some queries' scores, in rows of the shard.

    Args:
        history: The index, as it was when the past of the queries was found.
        joined: The past of the queries.
        slots: Where pairs lie.
    """
    found, partition = joined.found, history.partition
    groups, queries = found.groups, found.groups.queries
    past = query_feature(found.answers, queries.now)
    subject, kind, past = select(partition.owns(queries.subject), queries.subject, groups.of_relation, past)
    ends, facts, paths = _with_ends(joined)
    positions = iter([slots.positions(pairs) for pairs in joined.pairs])
    parts = facts, paths, joined.rules, joined.confidences
    of_parts = [None if part is None else next(positions) for part in parts]
    popularity = apart = of_apart = of_popularity = None
    if found.popular is not None:
        popularity, of_popularity = _popularity(history.by_relation, found, found.popular, slots)
    if slots.sample is not None:
        of_apart = slots.first_apart + torch.arange(len(slots.apart))
        count = torch.bincount(slots.apart // slots.num_rows, minlength=slots.num_queries)
        with torch.no_grad():  # transposed when it is renumbered to the rows that are read
            apart = CSRPattern.of(csr_offsets(count), slots.apart % slots.num_rows, slots.num_rows)
    return ScoreLayout(
        slots.num_queries,
        slots.num_columns,
        QueryKinds(groups.relations, torch.full_like(groups.relations, queries.horizon)),
        kind,
        subject,
        past,
        partition.rows(subject),
        None if slots.sample is None else slots.sample.column_rows,
        ends,
        *parts,
        popularity,
        apart,
        Positions(of_apart, *of_parts, of_popularity),
    )


def _with_ends(joined: Joined) -> tuple[Tensor, Walks | None, Walks | None]:
    """The distinct rows in which walks end, ascending, and the walks with their ends as places among them."""
    both = joined.facts, joined.paths
    ends = [torch.zeros(0, dtype=torch.int64) if walks is None else walks.end for walks in both]
    rows, place = unique_inverse(torch.cat(ends))
    places = place.split([len(end) for end in ends])
    facts, paths = (walks and replace(walks, end=place) for walks, place in zip(both, places, strict=True))
    return rows, facts, paths


def _popularity(index: RecencyIndex, found: Found, popular: Recent, slots: Slots) -> tuple[Popularity, Tensor | None]:
    """Popularity of the columns and of the pairs apart, and the positions of the latter."""
    groups, apart, positions = found.groups, None, None

    def objects(row: Tensor, last: Tensor, count: Tensor) -> PopularObjects:
        bin_ = log_bin(groups.queries.now - last) * NUM_BINS + log_bin(count)
        kind, offsets = rows_from_runs(row)
        return PopularObjects(kind, CSRPattern.of(offsets, bin_, NUM_BINS**2))

    row, column, last, count = popular.row, popular.item, popular.last, popular.count
    if slots.sample is not None:
        column = slots.sample.column.index_select(0, popular.item)
        row, column, last, count = select(column >= 0, row, column, last, count)
        kind = groups.of_relation.index_select(0, slots.apart // slots.num_rows)
        of_pairs = index.among(popular, groups.relations[kind], slots.apart % slots.num_rows)
        apart = objects(kind[of_pairs.row], of_pairs.last, of_pairs.count)
        positions = slots.first_apart + of_pairs.row
    columns, cell = objects(row, last, count), row * slots.num_columns + column
    return Popularity(len(groups.relations), groups.of_relation, columns, cell, apart), positions
