"""The Python API gives what the commands give, on a run that gam_kg.train has made."""

import datetime
import threading

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from flows import SMALL, write_facts

import gam_kg
from gam_kg.config import load_config
from gam_kg.errors import ArtifactError, ConfigError, DataError, GamKGError
from gam_kg.inference.embed import read_vectors
from gam_kg.inference.moments import Moments
from gam_kg.inference.search import nearest_entities
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.versions import latest
from pipelines.embed import embed
from pipelines.evaluate import evaluate
from pipelines.predict import predict

SETTINGS = dict(one.split("=") for one in SMALL if "num_workers" not in one)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The run, its configuration and its facts."""
    folder = tmp_path_factory.mktemp("api")
    facts = write_facts(folder / "facts.parquet")
    run = gam_kg.train(facts, run_dir=folder / "run", progress=False, **SETTINGS)
    config = load_config(run.path / "config.yaml")
    evaluate(config)
    embed(config)
    return run, config, facts


@pytest.fixture
def run(made):
    return made[0]


@pytest.fixture(scope="module")
def ranks(made):
    table = pq.read_table(made[1].run_path / "evaluation" / "ranks.parquet").to_pandas()
    return table[table["split"] == "test"].reset_index(drop=True)


def of_query(row):
    """The arguments of `ask` for a row of the ranks."""
    known = "subject" if row["direction"] == "object" else "object"
    return {known: row[known], "relation": row["relation"], "at": row["timestamp"]}


def rank_in(answers, true, others=()):
    """The realistic rank of an answer in a table of all answers, without some others."""
    answers = answers[~answers["answer"].isin(set(others) - {true})]
    score = answers.set_index("answer")["score"]
    return 1 + (score > score[true]).sum() + ((score == score[true]).sum() - 1) / 2


def test_every_test_answer_has_the_same_rank_by_all_ways(made, ranks, tmp_path):
    run, config, _ = made
    every = len(run.entities)
    questions = ranks[["timestamp", "relation", "subject", "object"]].copy()
    expected = ranks["direction"]
    for direction in ("object", "subject"):
        questions[direction] = questions[direction].where(expected != direction)
    questions.to_parquet(tmp_path / "questions.parquet")
    predict(config.changed({"predict.queries": str(tmp_path / "questions.parquet"), "predict.top_k": every}))
    predicted = pd.concat(
        pq.read_table(file).to_pandas() for file in sorted(latest(run.path / "predictions").glob("*.parquet"))
    )
    many = run.ask_many(questions, k=every)
    assert predicted["answer"].tolist() == many["answer"].tolist()
    assert predicted["query_id"].tolist() == many["query_id"].tolist()
    pd.testing.assert_series_equal(predicted["score"].reset_index(drop=True), many["score"])
    true = {}
    for row in ranks.to_dict("records"):
        true.setdefault(frozenset(of_query(row).items()), set()).add(row[row["direction"]])
    assert max(map(len, true.values())) > 1
    tables = dict(iter(many.groupby("query_id")))
    for number, row in enumerate(ranks.to_dict("records")):
        others = true[frozenset(of_query(row).items())]
        for answers in (run.ask(**of_query(row), k=every), tables[number]):
            assert len(answers) == every
            assert rank_in(answers, row[row["direction"]]) == row["rank_raw"]
            assert rank_in(answers, row[row["direction"]], others) == row["rank"]


def test_evaluate_ranks_facts_as_the_command_does(made, ranks):
    run, _, facts = made
    found = run.evaluate(facts[facts["timestamp"] >= ranks["timestamp"].min()].sample(frac=1, random_state=0))
    expected = ranks.pivot_table(
        index=["subject", "relation", "object", "timestamp"], columns="direction", values=["rank", "rank_raw"]
    )
    got = found.ranks.assign(timestamp=found.ranks["timestamp"].dt.strftime("%Y-%m-%d"))
    got = got.set_index(["subject", "relation", "object", "timestamp"])
    assert len(got) == len(expected) > 20
    for direction in ("object", "subject"):
        for suffix in ("", "_raw"):
            theirs = expected[f"rank{suffix}", direction]
            assert got[f"{direction}_rank{suffix}"].reindex(theirs.index).tolist() == theirs.tolist()
    both = found.metrics["both"]
    assert both["mrr"] == pytest.approx((1 / ranks["rank"]).mean())
    assert both["hits@1"] == pytest.approx((ranks["rank"] <= 1).mean())
    assert both["count"] == len(ranks)
    assert f"MRR {100 * both['mrr']:.1f}" in repr(found)


def test_facts_of_the_table_do_not_count_against_each_other(made):
    """Two answers to one query after the last fact: without the filter one of them is below the other."""
    run = made[0]
    facts = pd.DataFrame(
        {
            "subject": ["person 0"] * 2,
            "relation": ["visits"] * 2,
            "object": run.ask("person 0", "visits", k=2)["answer"],
            "timestamp": ["2020-01-25"] * 2,
        }
    )
    found = run.evaluate(facts)
    assert found.ranks["object_rank_raw"].tolist() == [1, 2]
    assert found.ranks["object_rank"].tolist() == [1, 1]


def test_facts_that_cannot_be_ranked_have_a_status(run):
    facts = pd.DataFrame(
        {
            "note": [1, 2, 3, 4, 5],
            "subject": ["person 0", "nobody", "person 1", "person 2", None],
            "relation": ["visits"] * 5,
            "object": ["place 0", "place 1", "place 2", "place 3", "place 4"],
            "timestamp": ["2020-01-10", "2020-01-10", None, "1999-01-01", "2020-01-10"],
        }
    )
    found = run.evaluate(facts)
    assert found.ranks["status"].tolist() == ["answered", "unknown_name", "missing", "before_first_fact", "missing"]
    assert found.ranks["object_rank"].isna().tolist() == [False, True, True, True, True]
    assert found.ranks["note"].tolist() == [1, 2, 3, 4, 5]
    assert found.ranks["reason"].isna().tolist() == [True, False, False, False, False]
    assert found.metrics["both"]["count"] == 2
    assert "4 others cannot be ranked" in repr(found)


def test_columns_of_the_table_that_have_names_of_ranks_are_there_beside_them(run):
    facts = pd.DataFrame(
        {
            "subject": ["person 0"],
            "relation": ["visits"],
            "object": ["place 0"],
            "timestamp": ["2020-01-10"],
            "status": ["mine"],
            "subject_rank_raw": [7],
        }
    )
    found = run.evaluate(facts).ranks
    assert found[["query_status", "query_subject_rank_raw", "status"]].values.tolist() == [["mine", 7, "answered"]]
    assert found["subject_rank_raw"][0] >= 1
    with pytest.raises(DataError, match="evaluate: column 'status' would be 'query_status' in the result"):
        run.evaluate(facts.assign(query_status=1))


def test_answers_do_not_depend_on_the_order_of_questions(made):
    run = made[0]
    times = [
        "2020-01-20",
        "2020-01-04",
        None,
        "2020-01-12",
        "2020-01-04",
        "2020-01-24",
        "2020-01-08",
        "2020-01-20",
        None,
    ]
    fresh = {at: gam_kg.load(run.path).ask("person 3", "visits", at=at, k=6) for at in dict.fromkeys(times)}
    jumping = gam_kg.load(run.path)
    for at in times:
        pd.testing.assert_frame_equal(jumping.ask("person 3", "visits", at=at, k=6), fresh[at])
    assert not fresh[None]["score"].equals(fresh["2020-01-04"]["score"])


def test_few_moments_are_in_memory_and_none_is_changed_by_another(made):
    opened = TrainedRun.load(made[0].path)
    moments, ends = Moments(opened, most=2), {}
    for snapshot in (20, 5, 12, 5, 24, 2):
        found = moments.before(snapshot)
        assert found.history.end == found.scorer_before(snapshot).end == snapshot
        ends[snapshot] = found
        assert len(moments._at) <= 2
    assert moments.before(2) is ends[2]
    walked = moments.between(2, 9)
    walked.scorer_before(9)
    assert moments.before(2).history.end == 2
    assert walked.history.end == 9
    assert "history" not in vars(opened)


def test_threads_share_a_run(run):
    times = ["2020-01-05", "2020-01-15", "2020-01-10", "2020-01-20"]
    alone = {at: run.ask("person 2", "visits", at=at) for at in times}
    found = {}

    def work(at):
        for _ in range(3):
            found[at] = run.ask("person 2", "visits", at=at)

    workers = [threading.Thread(target=work, args=[at]) for at in times]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for at in times:
        pd.testing.assert_frame_equal(found[at], alone[at])


def test_a_question_says_what_it_was_and_has_plain_columns(run):
    before = torch.get_num_threads()
    found = run.ask(object="place 2", relation="visits", at=datetime.date(2020, 1, 20), k=4)
    assert found.attrs == {
        "subject": None,
        "relation": "visits",
        "object": "place 2",
        "timestamp": "2020-01-20",
        "snapshots_beyond_last_fact": 0,
    }
    assert found["position"].tolist() == [1, 2, 3, 4]
    assert found["answer"].str.startswith("person").all()
    assert found["times_seen"].dtype == np.int64
    assert found["score"].is_monotonic_decreasing
    assert found["score"].dtype == np.float32
    assert torch.get_num_threads() == before
    beyond = run.ask("person 1", "visits", at=pd.Timestamp("2020-02-01"))
    assert beyond.attrs["snapshots_beyond_last_fact"] == 8
    few = run.ask("person 1", "visits", among=["place 1", "place 4", "place 1"])
    assert sorted(few["answer"]) == ["place 1", "place 4"]
    assert few["probability"].sum() == pytest.approx(1)
    assert run.ask("person 1", "visits", among="PLACE_4")["answer"].tolist() == ["place 4"]


def test_ask_many_has_a_row_for_each_question_in_order(run):
    questions = pd.DataFrame(
        {
            "asked_by": pd.Categorical(["x", "y", "x", "y", "z"]),
            "subject": ["person 5", None, "stranger", "person 1", None],
            "relation": ["visits", "visits", "visits", "visits", "calls"],
            "object": [None, "place 3", None, "place 1", None],
            "timestamp": [pd.Timestamp("2020-01-22"), pd.NaT, pd.NaT, pd.NaT, pd.NaT],
            "weight": [0.5, 1.5, 2.5, 3.5, 4.5],
        },
        index=[7, 7, 1, 0, 3],
    )
    found = run.ask_many(questions, k=2)
    assert found["query_id"].tolist() == [0, 0, 1, 1, 2, 3, 4]
    assert found["status"].tolist() == ["answered"] * 4 + ["unknown_name", "both_sides", "missing"]
    assert found["weight"].tolist() == [0.5, 0.5, 1.5, 1.5, 2.5, 3.5, 4.5]
    assert found["asked_by"].tolist() == ["x", "x", "y", "y", "x", "y", "z"]
    assert pd.api.types.is_integer_dtype(found["position"])
    assert found["answer_id"].isna().tolist() == [False] * 4 + [True] * 3
    alone = run.ask(object="place 3", relation="visits", k=2)
    assert found.loc[2:3, "answer"].tolist() == alone["answer"].tolist()
    assert run.ask_many(questions.iloc[:0]).empty
    assert run.ask_many(questions.iloc[2:3]).loc[0, "reason"].startswith("unknown entity 'stranger'")


def test_like_and_embeddings_are_those_of_the_commands(made):
    run, config, _ = made
    like = run.like("person 4", at="2020-01-15", k=5)
    expected = nearest_entities(TrainedRun.load(run.path), "person 4", "2020-01-15", 5).to_pandas()
    assert like["entity"].tolist() == expected["entity"].tolist()
    np.testing.assert_allclose(like["cosine"], expected["cosine"], rtol=1e-5)
    version = latest(config.run_path / "embeddings")
    vectors, arrow = run.embeddings(), run.embeddings(form="arrow")
    stored = pq.read_table(version / "entities.parquet")
    assert arrow.schema.equals(stored.schema, check_metadata=True)
    assert arrow.drop_columns(["embedding", "search_vector"]).equals(
        stored.drop_columns(["embedding", "search_vector"])
    )
    for vector in ("embedding", "search_vector"):
        expected = read_vectors(version / "entities.parquet", vector)
        np.testing.assert_allclose(run.embeddings(vector=vector).to_numpy(), expected, rtol=1e-4, atol=1e-6)
    assert vectors.index.tolist() == run.entities.tolist()
    assert (vectors.dtypes == np.float32).all()
    torch.testing.assert_close(run.embeddings(form="torch"), torch.from_numpy(vectors.to_numpy().copy()))
    relations = run.embeddings(kind="relation")
    assert relations.shape == (2 * len(run.relations), 16)
    np.testing.assert_allclose(relations.to_numpy(), read_vectors(version / "relations.parquet"), rtol=1e-5)
    earlier = run.embeddings(at="2020-01-03")
    assert not np.allclose(earlier.to_numpy(), vectors.to_numpy())


def test_explain_explains_the_answer_of_ask(run):
    best = run.ask("person 3", "visits", at="2020-01-20", k=3)
    found = run.explain("person 3", "visits", at="2020-01-20")
    assert found.answer == best["answer"][0]
    assert found.score == pytest.approx(best["score"][0], abs=1e-4)
    assert sum(found.parts.values()) == pytest.approx(found.score, abs=1e-4)
    third = run.explain("person 3", "visits", at="2020-01-20", answer=best["answer"][2])
    assert third.score == pytest.approx(best["score"][2], abs=1e-4)
    assert run.explain(object="place 1", relation="visits").answer.startswith("person")


def test_a_run_shows_what_it_is(run):
    num_facts = run.trained_run.graph_manifest.content["num_facts"]
    assert repr(run) == f"Run('run': 18 entities, 2 relations, {num_facts} facts, 2020-01-01 to 2020-01-24)"
    assert run.relations.tolist() == ["visits", "calls"]
    assert (run.first, run.last) == ("2020-01-01", "2020-01-24")


@pytest.mark.parametrize(
    "question, error, words",
    [
        (lambda run: run.ask("person 1", "visits", "place 2"), DataError, "exactly one"),
        (lambda run: run.ask(relation="visits"), DataError, "exactly one"),
        (lambda run: run.ask("person 1"), DataError, "run.relations"),
        (lambda run: run.ask("persn 1", "visits"), DataError, "did you mean 'person 1"),
        (lambda run: run.ask("person 1", "visit"), DataError, "did you mean 'visits'"),
        (lambda run: run.ask("person 1", "visits", at="2019-12-31"), ConfigError, "before the first fact .2020-01-01"),
        (lambda run: run.ask("person 1", "visits", at="soon"), ConfigError, "'soon' is not an ISO 8601 date"),
        (lambda run: run.ask("person 1", "visits", at=3.5), ConfigError, "give one in quotes"),
        (lambda run: run.ask("person 1", "visits", k=0), ConfigError, "k=0: expected a whole number, at least 1"),
        (lambda run: run.ask("person 1", "visits", k=True), ConfigError, "k=True"),
        (lambda run: run.ask("person 1", "visits", among=[]), DataError, "among: there are no names"),
        (lambda run: run.ask("person 1", "visits", among=5), DataError, "(?s)unknown entity name.*'5'"),
        (lambda run: run.ask("person 1", "visits", among=["place 9"]), DataError, "did you mean 'place"),
        (lambda run: run.like("nobody at all"), DataError, "unknown entity name"),
        (lambda run: run.like("person 1", k=-1), ConfigError, "k=-1"),
        (lambda run: run.explain("person 1", "visits", answer="plce 2"), DataError, "did you mean 'place 2'"),
        (lambda run: run.ask_many(pd.DataFrame({"subject": ["a"]})), DataError, "ask_many: no column 'relation'"),
        (lambda run: run.ask_many("questions.csv"), DataError, "expected a pandas DataFrame, found str"),
        (lambda run: run.ask_many(pd.DataFrame({"relation": ["visits", 3], "subject": "x"})), DataError, "'relation'"),
        (lambda run: run.evaluate(pd.DataFrame({"subject": ["a"], "relation": "b"})), DataError, "no column 'object'"),
        (lambda run: run.embeddings(kind="entities"), ConfigError, "kind='entities': allowed here: 'entity'"),
        (lambda run: run.embeddings(form="numpy"), ConfigError, "'pandas', 'arrow', 'torch'"),
        (lambda run: run.embeddings(kind="relation", vector="search_vector"), ConfigError, "'embedding'"),
        (lambda run: gam_kg.load(run.path / "graph"), ArtifactError, "no finished graph artifact"),
        (lambda _: gam_kg.load(3), ConfigError, "run=3: expected a path or a URI, found int"),
        (lambda run: gam_kg.load("no/such/run"), ConfigError, "no such file or folder of a run"),
    ],
)
def test_mistakes_are_explained(run, question, error, words):
    with pytest.raises(error, match=words) as refused:
        question(run)
    assert isinstance(refused.value, GamKGError)


def test_a_run_is_loaded_by_folder_uri_or_configuration(run):
    for place in (run.path, str(run.path), f"file://{run.path}", run.path / "config.yaml"):
        assert repr(gam_kg.load(place)) == repr(run)
