"""Sparse scores have the ranks that the written-out scores have, to the last tie, on any number of ranks."""

from dataclasses import dataclass, field, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_threads import in_threads
from torch import Tensor

from gam_kg.errors import EvaluationError
from gam_kg.graph.partition import Partition
from gam_kg.graph.snapshot import Queries
from gam_kg.metrics.ranks import rank_answers
from gam_kg.metrics.sparse_scores import Background, SparseScores

SUMS = st.sampled_from([-1.0, 0.0, 1e-9, 0.1, 0.3, 0.1 + 0.2, 1.0])


@dataclass
class Case:
    """Levels of all candidates, what they are worth, and what pairs add.

    Attributes:
        levels: int64 (num_backgrounds, num_entities).
        values: float64 (num_backgrounds, num_levels).
        query_background: int64 (num_queries,).
        added: By (query, entity).
        answers: Of each query.
    """

    levels: Tensor
    values: Tensor
    query_background: Tensor
    added: dict[tuple[int, int], float]
    answers: list[list[int]] = field(default_factory=list)

    def scores(self, partition: Partition) -> SparseScores:
        levels, num_levels, num_rows = self.levels[:, partition.ids], self.values.shape[1], partition.num_rows
        number = torch.stack([row.bincount(minlength=num_levels) for row in levels])
        background = Background(self.values, number, lambda of, row: levels[of, row])
        own = {(query, entity): score for (query, entity), score in self.added.items() if entity in partition.ids}
        pair = torch.tensor(list(own), dtype=torch.int64).reshape(-1, 2)
        pair = pair[:, 0] * num_rows + partition.rows(pair[:, 1])
        score = torch.tensor(list(own.values()), dtype=torch.float64)
        return SparseScores(background, self.query_background, num_rows, pair, score)

    @property
    def table(self) -> Tensor:
        table = self.values.gather(1, self.levels)[self.query_background]
        for (query, entity), score in self.added.items():
            table[query, entity] += score
        return table

    @property
    def queries(self) -> Queries:
        flat = [(query, answer) for query, each in enumerate(self.answers) for answer in each]
        number, (answer_query, answer) = len(self.answers), torch.tensor(flat, dtype=torch.int64).reshape(-1, 2).T
        return Queries(7, torch.arange(number) + 50, torch.arange(number) + 70, answer_query, answer)


@st.composite
def cases(draw):
    """Few levels, of which some are worth the same, and pairs that tie with them, so that ties are many."""
    num_backgrounds, num_levels = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    num_queries, num_entities = draw(st.integers(0, 4)), draw(st.integers(1, 9))

    def table(element, rows, columns):
        row = st.lists(element, min_size=columns, max_size=columns)
        return draw(st.lists(row, min_size=rows, max_size=rows))

    pairs = st.tuples(st.integers(0, max(0, num_queries - 1)), st.integers(0, num_entities - 1))
    return Case(
        torch.tensor(table(st.integers(0, num_levels - 1), num_backgrounds, num_entities)),
        torch.tensor(table(SUMS, num_backgrounds, num_levels), dtype=torch.float64).sort(1).values,
        torch.tensor(table(st.integers(0, num_backgrounds - 1), 1, num_queries)[0], dtype=torch.int64),
        draw(st.dictionaries(pairs, SUMS, max_size=12)) if num_queries else {},
        [draw(st.lists(st.integers(0, num_entities - 1), unique=True)) for _ in range(num_queries)],
    )


@given(cases())
@settings(max_examples=200)
def test_ranks_are_those_of_the_written_out_scores(case):
    partition = Partition(case.levels.shape[1])
    scores = case.scores(partition)
    assert torch.equal(scores.dense(), case.table)
    found, expected = rank_answers(scores, case.queries, partition), rank_answers(case.table, case.queries)
    assert torch.equal(found.raw, expected.raw)
    assert torch.equal(found.time_aware, expected.time_aware)


@given(cases(), st.integers(2, 3), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_ranks_of_several_shards_are_those_of_the_whole(case, world_size, buckets):
    def shard(rank, total):
        partition = Partition(case.levels.shape[1], buckets, rank, world_size)
        return rank_answers(case.scores(partition), case.queries, partition, total)

    expected = rank_answers(case.table, case.queries)
    for ranks in in_threads(world_size, shard):
        assert torch.equal(ranks.raw, expected.raw)
        assert torch.equal(ranks.time_aware, expected.time_aware)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    levels = torch.tensor([[0, 0, 1]])
    case = Case(levels, torch.tensor([[0.0, 1.0]]).double(), torch.tensor([0, 0]), {(1, 2): bad}, [[0], [1]])
    with pytest.raises(EvaluationError, match="subject 51, relation 71"):
        rank_answers(case.scores(Partition(3)), case.queries, Partition(3))
    values = torch.tensor([[0.0, bad if bad > 0 else torch.inf]]).double()
    with pytest.raises(EvaluationError, match="subject 50, relation 70"):
        rank_answers(replace(case, values=values, added={}).scores(Partition(3)), case.queries, Partition(3))


def test_a_level_that_no_candidate_has_may_be_anything():
    case = Case(torch.tensor([[0, 0]]), torch.tensor([[1.0, torch.inf]]).double(), torch.tensor([0]), {}, [[1]])
    assert rank_answers(case.scores(Partition(2)), case.queries, Partition(2)).raw.tolist() == [1.5]
