from graphs import TEST_START, Past, graph_of, random_facts
from hypothesis import given, settings
from hypothesis import strategies as st

from gam_kg.metrics.strata import Strata
from gam_kg.schemas import STRATA


@given(st.integers(0, 10_000), st.integers(1, 80))
@settings(max_examples=40)
def test_strata_are_what_the_past_says(seed, size):
    facts = random_facts(seed, size)
    graph = graph_of(facts)
    strata = Strata(graph)
    for time in graph.times:
        queries, past = graph.snapshot(time).queries, Past(facts, time)
        pairs = {(subject, other) for subject, _, other in past.seen}
        expected = []
        for query, answer in zip(queries.answer_query.tolist(), queries.answer.tolist(), strict=True):
            subject, relation = int(queries.subject[query]), int(queries.relation[query])
            recurrent = (subject, relation, answer) in past.seen
            expected.append("recurrent" if recurrent else "pair_only" if (subject, answer) in pairs else "cold")
        assert [STRATA[index] for index in strata.of(queries).tolist()] == expected


def test_a_pair_the_other_way_round_is_a_pair_and_its_own_snapshot_is_not_past():
    graph = graph_of([(0, 0, 1, 2), (1, 1, 0, TEST_START), (0, 0, 1, TEST_START), (4, 0, 5, TEST_START)])
    queries = graph.snapshot(TEST_START).queries
    found = dict(
        zip(
            zip(
                queries.subject[queries.answer_query].tolist(),
                queries.relation[queries.answer_query].tolist(),
                queries.answer.tolist(),
                strict=True,
            ),
            [STRATA[index] for index in Strata(graph).of(queries).tolist()],
            strict=True,
        )
    )
    assert found == {
        (1, 1, 0): "pair_only",
        (0, 4, 1): "pair_only",
        (0, 0, 1): "recurrent",
        (1, 3, 0): "recurrent",
        (4, 0, 5): "cold",
        (5, 3, 4): "cold",
    }
