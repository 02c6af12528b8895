"""Answers to tables of queries: what each row comes to, what is known of an answer, and from which facts."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from graphs import NUM_SNAPSHOTS, Past, graph_of, random_facts, tiny_config, write_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import train_run

from gam_kg.config import EvaluateConfig
from gam_kg.data_config import ColumnsConfig
from gam_kg.errors import DataError, EvaluationError
from gam_kg.inference.answers import answer_queries
from gam_kg.inference.evaluation import evaluate_run
from gam_kg.inference.predict import prediction_table
from gam_kg.inference.queries import EncodedQueries, QueryRows, read_queries
from gam_kg.inference.search import nearest_entities, query_answers
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.schemas import PREDICTIONS, STRATA

FACTS = random_facts(1, 150)
NAMES = pa.schema(
    [("subject", pa.string()), ("relation", pa.string()), ("object", pa.string()), ("timestamp", pa.string())]
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_graph(folder / "graph", graph_of(FACTS, buckets=3), buckets=3)
    train_run(folder, tiny_config(epochs=1))
    return TrainedRun.load(folder)


def predictions(run, table, top_k=4, **columns):
    rows = read_queries(run, table, ColumnsConfig(**columns))
    return prediction_table(run, rows, answer_queries(run, rows.encoded, top_k))


def table_of(*rows):
    return pa.Table.from_pylist([dict(zip(NAMES.names, row, strict=True)) for row in rows], schema=NAMES)


def status_of(subject, relation, obj, timestamp):
    """The first thing that is wrong with a row, in plain Python."""
    subject, relation, obj, timestamp = ((text or "").strip() for text in (subject, relation, obj, timestamp))
    if not relation or not (subject or obj):
        return "missing"
    if subject and obj:
        return "both_sides"
    if "9" in subject + relation + obj:
        return "unknown_name"
    if timestamp == "soon":
        return "unreadable_timestamp"
    return "before_first_fact" if timestamp == "-1" else "answered"


sides = st.sampled_from([None, "", "  ", "entity 1", " entity 3\t", "entity 99"])
queries = st.tuples(
    sides,
    st.sampled_from(["relation 0", "relation 2 ", "relation 0", "relation 1", "relation 9", "", None]),
    sides,
    st.sampled_from([None, "", "0", "5", "7", "8", "30", "soon", "-1"]),
)


@given(st.lists(queries, min_size=1, max_size=8))
@settings(max_examples=40)
def test_bad_rows_get_a_status_and_the_others_the_answers_they_get_alone(run, rows):
    found = predictions(run, table_of(*rows))
    assert found.schema.equals(PREDICTIONS)
    by_query = found.to_pandas().groupby("query_id", sort=False)
    assert list(by_query.groups) == list(range(len(rows)))
    for (number, part), row in zip(by_query, rows, strict=True):
        assert set(part["status"]) == {status_of(*row)}
        if part["status"].iloc[0] != "answered":
            assert len(part) == 1
            assert part["answer"].isna().all()
            assert len(part["reason"].iloc[0]) > 10
            assert found["timestamp"][found["query_id"].to_pylist().index(number)].as_py() == row[3]
            continue
        assert part["reason"].isna().all()
        alone = predictions(run, table_of(row)).to_pandas()
        assert part["position"].tolist() == [1, 2, 3, 4]
        np.testing.assert_allclose(part["score"], alone["score"], rtol=1e-5, atol=1e-6)
        for name in ("subject", "relation", "object", "timestamp", "answer", "times_seen", "last_seen"):
            assert part[name].fillna("").tolist() == alone[name].fillna("").tolist(), name


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("entity 99", "relation 0", None, None), "unknown entity 'entity 99'; did you mean 'entity 9'"),
        ((None, "relatoin 0", "entity 1", None), "unknown relation 'relatoin 0'; did you mean 'relation 0'"),
        (("entity 99", "x", None, None), r"unknown entity 'entity 99'.*; unknown relation 'x'"),
        (("entity 1", "relation 0", "entity 2", None), "both given"),
        ((None, "relation 0", "", None), "neither subject nor object"),
        (("entity 1", None, None, None), "no relation"),
        (("entity 1", "relation 0", None, "soon"), "soon cannot be read.*integers, as 0"),
        (("entity 1", "relation 0", None, "-3"), r"-3 is before the first fact \(0\)"),
    ],
)
def test_a_reason_says_what_is_wrong_and_what_was_meant(run, row, reason):
    assert pa.compute.match_substring_regex(predictions(run, table_of(row))["reason"], reason).to_pylist() == [True]


def test_what_was_seen_of_an_answer_is_counted_before_the_query(run):
    pairs = [(s, r, t) for s in range(10) for r in range(6) for t in (0, 1, 5, NUM_SNAPSHOTS, NUM_SNAPSHOTS + 5)]
    encoded = EncodedQueries(*np.array(pairs).T)
    answers = answer_queries(run, encoded, 10)
    past = {time: Past(FACTS, time) for time in np.unique(encoded.snapshot).tolist()}
    seen = 0
    for number, (subject, relation, time) in enumerate(pairs):
        for entity, times, last in zip(
            *(column[number] for column in (answers.entity, answers.times_seen, answers.last_seen)), strict=True
        ):
            expected = past[time].seen.get((subject, relation, entity), set())
            assert (times, last) == (len(expected), max(expected, default=-1))
            seen += len(expected) > 1
        together = {other for (owner, _, other), times in past[time].seen.items() if owner == subject and times}
        for entity, times, novelty in zip(
            *(column[number] for column in (answers.entity, answers.times_seen, answers.novelty)), strict=True
        ):
            assert STRATA[novelty] == ("recurrent" if times else "pair_only" if entity in together else "cold")
    assert seen > 100, "facts must recur"


def test_answers_have_the_ranks_that_the_evaluation_gives_them(run):
    config = EvaluateConfig(splits=("test",), settings=("single_step",), baselines=False)
    ranks = evaluate_run(run, config).ranks.to_pandas()
    is_object = (ranks["direction"] == "object").to_numpy()
    known = np.where(is_object, ranks["subject_id"], ranks["object_id"])
    relation = ranks["relation_id"].to_numpy() + np.where(is_object, 0, len(run.relations))
    answers = answer_queries(run, EncodedQueries(known, relation, ranks["snapshot"].to_numpy()), len(run.entities))
    right = np.where(is_object, ranks["object_id"], ranks["subject_id"])[:, None]
    assert set(ranks["stratum"]) == set(STRATA)
    assert np.array(STRATA)[answers.novelty[answers.entity == right]].tolist() == ranks["stratum"].tolist()
    score = answers.score[answers.entity == right][:, None]
    above, equal = (answers.score > score).sum(1), (answers.score == score).sum(1) - 1
    assert len(ranks) > 20
    assert (1 + above + equal / 2 == ranks["rank_raw"]).mean() > 0.95, "float error moves a few at most"


def test_facts_at_and_after_a_query_change_nothing_in_its_answers(run):
    table = table_of(*((f"entity {s}", f"relation {r}", None, "5") for s in range(4) for r in range(3)))
    earlier = replace(run, graph=run.graph.before(5))
    now, then = predictions(run, table).to_pandas(), predictions(earlier, table).to_pandas()
    np.testing.assert_allclose(now["score"], then["score"], rtol=1e-6)
    for name in ("answer", "times_seen", "last_seen"):
        assert now[name].fillna("").tolist() == then[name].fillna("").tolist()
    assert now["times_seen"].sum() > 0


def test_queries_say_how_far_they_are_beyond_the_last_fact(run):
    times = ("0", "6", "7", "8", None, "9", "1000000000000000000")
    found = predictions(run, table_of(*(("entity 1", "relation 0", None, time) for time in times)), top_k=1)
    assert found["snapshots_beyond_last_fact"].to_pylist() == [0, 0, 0, 1, 1, 2, 10**18 - 7]
    assert np.isfinite(found["score"].to_numpy()).all()


def test_other_columns_come_back_with_their_types(run):
    extra = {
        "weight": pa.array([1.5, None, 3.0]),
        "tags": pa.array([["a"], [], None]),
        "when raised": pa.array([1, 2, 3], pa.timestamp("us", "UTC")),
        "split": pa.array(["x", "y", "z"]).dictionary_encode(),
    }
    table = pa.table({"subject": ["entity 1", "no one", "entity 2"], "relation": ["relation 0"] * 3, **extra})
    found = predictions(run, table, top_k=2)
    assert found.schema.names == [*PREDICTIONS.names, *extra]
    assert found["query_id"].to_pylist() == [0, 0, 1, 2, 2]
    for name, column in extra.items():
        assert found.schema.field(name).type == column.type
        assert found[name].to_pylist() == column.take(pa.array([0, 0, 1, 2, 2])).to_pylist()


def test_other_columns_that_have_a_name_of_ours_get_another(run):
    table = table_of(("entity 1", "relation 0", None, None)).append_column("score", pa.array([7]))
    found = predictions(run, table.append_column("query_id", pa.array(["a-1"])), top_k=1)
    assert found.schema.names == [*PREDICTIONS.names, "query_score", "query_query_id"]
    assert found.select(["query_score", "query_query_id"]).to_pylist() == [{"query_score": 7, "query_query_id": "a-1"}]
    with pytest.raises(DataError, match=r"'score'.*'query_score'"):
        predictions(run, table.append_column("query_score", pa.array([7])))


@pytest.mark.parametrize(
    ("names", "columns", "message"),
    [
        (["subject", "relation", "time"], {}, "'time' looks like the timestamp.*data.columns.timestamp"),
        (["subject", "relation", "timestamp "], {}, "'timestamp ' looks like the timestamp"),
        (["subject", "relation", "timestamp", "Timestamp"], {}, "'Timestamp' looks like the timestamp"),
        (["subj", "relation"], {}, "'subj' looks like the subject.*data.columns.subject"),
        (["subject", "relation_id"], {}, "'relation_id' looks like the relation"),
        (["subject", "relation", "tail"], {}, "'tail' looks like the object"),
        (["subject", "relation", "end_timestamp"], {}, "has no end"),
        (["subject", "relation", "until"], {"end_timestamp": "until"}, "has no end"),
        (["subject", "relation", "subject"], {}, "'subject' is there twice"),
        (["subject", "relation", "x", "x"], {}, "'x' is there twice"),
        (["head", "relation", "subject"], {"subject": "head"}, "'head' and 'subject' are both there"),
        (["subject", "timestamp"], {}, "no column 'relation'"),
        (["relation", "timestamp"], {}, "no column 'subject' or 'object'"),
    ],
)
def test_columns_that_may_be_ours_are_refused(run, names, columns, message):
    table = pa.table([["1"]] * len(names), names=names)
    with pytest.raises(DataError, match=message):
        read_queries(run, table, ColumnsConfig(**columns))


def test_columns_may_have_the_names_of_the_facts_or_our_own(run):
    ours = predictions(run, table_of(("entity 1", "relation 0", None, "5")))
    swapped = {"subject": "object", "object": "subject"}
    for names, columns in (
        (["who", "does", "whom", "on"], {"subject": "who", "relation": "does", "object": "whom", "timestamp": "on"}),
        (["subject", "does", "object", "timestamp"], {"subject": "who", "relation": "does", "object": "whom"}),
        (["object", "relation", "subject", "timestamp"], swapped),
    ):
        table = table_of(("entity 1", "relation 0", None, "5")).rename_columns(names)
        assert predictions(run, table, **columns).equals(ours), names


def test_a_true_answer_beside_the_known_side_may_have_any_other_name(run):
    table = table_of(("entity 1", "relation 0", None, "5")).append_column("date", pa.array(["1999"]))
    assert predictions(run, table)["date"].to_pylist()[0] == "1999"


def test_integers_are_names_by_their_digits_and_floats_are_refused(run, monkeypatch):
    monkeypatch.setattr(run.entities, "names", pa.array([*map(str, range(10))], pa.large_string()))
    for subject in (pa.array([3], pa.int8()), pa.array([3], pa.uint64()), pa.array([3]).dictionary_encode()):
        table = pa.table({"subject": subject, "relation": ["relation 0"]})
        assert predictions(run, table)["subject"].to_pylist() == ["3"] * 4
    with pytest.raises(DataError, match=r"'subject' is double.*Int64"):
        predictions(run, pa.table({"subject": [3.0], "relation": ["relation 0"]}))


def test_names_are_folded_as_those_of_the_graph(run):
    folded = replace(run, graph_manifest=replace(run.graph_manifest, config={"data": {"normalize_names": ["case"]}}))
    found = predictions(folded, table_of((" ENTITY 1", "Relation 0", None, None)), top_k=1)
    assert found.select(["subject", "relation", "status"]).to_pylist() == [
        {"subject": "entity 1", "relation": "relation 0", "status": "answered"}
    ]
    assert query_answers(folded, "Entity 1 ", "RELATION 0").num_rows == 10
    assert nearest_entities(folded, "Entity 1").equals(nearest_entities(run, "entity 1"))
    with pytest.raises(DataError, match="did you mean 'entity 1'"):
        nearest_entities(run, "Entities 1")


def test_names_that_are_no_utf8_are_unknown(run):
    octets = pa.array([b"entity\xff1"], pa.binary())
    subject = pa.Array.from_buffers(pa.string(), 1, octets.buffers())
    found = predictions(run, pa.table({"subject": subject, "relation": ["relation 0"]}))
    assert found["reason"].to_pylist()[0].startswith(r"unknown entity 'entity\\xff1'")


def test_scores_that_are_not_finite_are_refused(run, monkeypatch):
    with torch.no_grad():
        spoilt = run.model.entity.clone()
        spoilt[3] = torch.nan
    monkeypatch.setattr(run.model, "entity", torch.nn.Parameter(spoilt))
    fresh = replace(run)
    with pytest.raises(EvaluationError, match="NaN or infinite"):
        query_answers(fresh, "entity 1", "relation 0")
    with pytest.raises(EvaluationError, match="NaN or infinite"):
        nearest_entities(fresh, "entity 1")


def test_rows_of_encoded_queries_are_all_answered(run):
    encoded = EncodedQueries(np.array([1, 2]), np.array([0, 4]), np.array([5, 8]))
    rows = QueryRows.of(run, encoded)
    assert {name: column.to_pylist() for name, column in rows.columns.items()} == {
        "subject": ["entity 1", None],
        "relation": ["relation 0", "relation 1"],
        "object": [None, "entity 2"],
        "timestamp": ["5", "8"],
    }
    assert rows.counts == {"answered": 2}
