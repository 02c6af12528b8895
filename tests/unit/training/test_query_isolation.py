"""The scores of a query do not depend on which other queries are scored with it."""

from functools import partial

import pytest
import torch
from graphs import all_queries, graph_of, queries_of, random_facts, snapshots_of, table_of, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from scoring import sharded
from strategies import horizons

from gam_kg.history.index import HistoryIndex
from gam_kg.metrics.all_baselines import build_baselines
from gam_kg.nn.decoder import DECODERS
from gam_kg.training.evaluate import ModelScorer, roll

assert_exact = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)
TIME = 6


def scorers_at(facts, **changes):
    graph = graph_of(facts)
    model = tiny_model(graph, **changes)
    history = HistoryIndex(graph, model.config.history)
    scorers = {"model": ModelScorer(sharded(model), history), **build_baselines(history)}
    roll(scorers.values(), history, snapshots_of(graph, range(TIME)))
    return scorers


def pairs_of(queries):
    return list(zip(queries.subject.tolist(), queries.relation.tolist(), strict=True))


@pytest.mark.parametrize("horizon", [1, 2, 5])
@pytest.mark.parametrize("decoder", DECODERS)
def test_a_query_alone_scores_as_among_others(decoder, horizon):
    # Dropout is there, and must not act.
    scorers = scorers_at(random_facts(0), decoder=decoder, dropout=0.5, entity_dropout=0.5)
    together = all_queries(TIME, horizon)
    for scorer in scorers.values():
        scores = table_of(scorer.scores(together))
        for row, pair in enumerate(pairs_of(together)):
            alone = table_of(scorer.scores(queries_of([pair], together.time).seen_from(TIME)))
            assert_exact(alone[0], scores[row])


@given(st.integers(0, 100), st.lists(st.integers(0, 59), min_size=1, max_size=12), horizons)
@settings(max_examples=15)
def test_neither_order_nor_company_nor_repetition_matters(seed, rows, horizon):
    together, chosen = all_queries(TIME, horizon), torch.tensor(rows)
    for scorer in scorers_at(random_facts(seed)).values():
        scores = table_of(scorer.scores(together))
        some = table_of(scorer.scores(together.select(chosen)))
        assert_exact(some, scores[chosen])


def test_asking_does_not_change_later_answers():
    facts = random_facts(1)
    queried, fresh, rolled = scorers_at(facts), scorers_at(facts), scorers_at(facts)
    later = queries_of([(3, 1), (0, 0)], TIME + 1)
    for name, scorer in queried.items():
        scorer.scores(all_queries(TIME))
        scorer.scores(all_queries(TIME, 5))
        scorer.scores(queries_of([(0, 0)], TIME))
        assert torch.equal(table_of(scorer.scores(later)), table_of(fresh[name].scores(later)))
    for scorers in (queried, rolled):
        roll(scorers.values(), scorers["model"].history, snapshots_of(graph_of(facts), [TIME]))
    for name, scorer in queried.items():
        assert_exact(table_of(scorer.scores(later)), table_of(rolled[name].scores(later)))
