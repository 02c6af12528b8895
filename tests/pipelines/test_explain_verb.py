"""The explain verb, and the column of predictions that predict.explain gives."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flows import gam_kg
from graphs import graph_of, random_facts, tiny_config, write_graph
from pyarrow import csv
from runs import train_run

from gam_kg.run_config import write_config
from gam_kg.schemas import EXPLANATION, PREDICTIONS
from pipelines.predict import predict


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_graph(folder / "graph", graph_of(random_facts(1, 150), buckets=3), buckets=3)
    train_run(folder, tiny_config(epochs=1))
    config = tiny_config(epochs=1).model_copy(update={"run_dir": str(folder)})
    write_config(config)
    return config


@pytest.fixture
def explained(config, monkeypatch, capsys):
    """A function from arguments of explain to the JSON that it prints."""

    def call(*arguments):
        assert gam_kg(monkeypatch, "explain", config.run_dir, *arguments, "--json") == 0
        return json.loads(capsys.readouterr().out)

    return call


def test_json_has_the_best_answers_and_parts_that_sum_to_their_scores(explained):
    found = explained("entity 1", "relation 0", "--top-k", "10", "--facts", "2", "--at", "5")
    assert [one["rank"] for one in found] == list(range(1, 11))
    assert sum(one["probability"] for one in found) == pytest.approx(1)
    for one in found:
        assert one["score"] == pytest.approx(sum(one["parts"].values()))
        assert len(one["reasons"]) <= 2
        assert (one["subject"], one["relation"], one["object"], one["timestamp"]) == (
            "entity 1",
            "relation 0",
            None,
            "5",
        )
    assert found == sorted(found, key=lambda one: -one["score"])
    assert any(one["reasons"] for one in found)


def test_any_answer_can_be_explained_named_as_an_option_or_as_the_object(explained):
    every = explained("?", "relation 1", "entity 3", "--top-k", "10")
    assert {(one["subject"], one["object"]) for one in every} == {(None, "entity 3")}
    (named,) = explained("?", "relation 1", "entity 3", "--answer", every[6]["answer"])
    assert named == every[6]
    assert explained("entity 1", "relation 0", "entity 4") == explained(
        "entity 1", "relation 0", "--answer", "entity 4"
    )


def test_the_memory_is_shown_where_it_is_requested(explained):
    (one,) = explained("?", "relation 1", "entity 3", "--memory")
    assert sum(fact["weight"] for fact in one["memory"]) == pytest.approx(1)
    assert all("entity 3" in (fact["subject"], fact["object"]) for fact in one["memory"])


def test_the_text_has_parts_and_reasons(config, monkeypatch, capsys):
    assert gam_kg(monkeypatch, "explain", config.run_dir, "entity 1", "relation 0", "--facts", "30") == 0
    found = capsys.readouterr().out
    assert found.startswith("(entity 1, relation 0, ?) at 8: entity ")
    for word in ("rank 1, probability", "vector:", "counts, %", "what carries it", "(entity 1, relation 0, entity "):
        assert word in found


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("entity 99", "relation 0"), 1, "did you mean 'entity 9'"),
        (("entity 1", "relation 9"), 1, "unknown relation"),
        (("entity 1", "relation 0", "--answer", "nobody"), 1, "unknown entity"),
        (("?", "relation 0"), 2, "to ask for the subject"),
        (("entity 1", "relation 0", "entity 2", "--answer", "entity 3"), 2, "given twice"),
        (("entity 1", "relation 0", "entity 2", "--top-k", "3"), 2, "leave one out"),
        (("entity 1", "relation 0", "--answer", "entity 2", "--top-k", "3"), 2, "leave one out"),
        (("entity 1", "relation 0", "--at", "soon"), 1, "soon"),
    ],
)
def test_mistakes_are_named(config, monkeypatch, capsys, caplog, arguments, status, message):
    assert gam_kg(monkeypatch, "explain", config.run_dir, *arguments) == status
    assert message in " ".join((capsys.readouterr().err + caplog.text).split())


def test_predictions_have_explanations_where_they_are_requested(config, tmp_path):
    table = pa.table({"subject": ["entity 1", "nobody"], "relation": ["relation 0"] * 2, "explanation": ["own", None]})
    pq.write_table(table, tmp_path / "queries.parquet")
    settings = {"predict.queries": str(tmp_path / "queries.parquet"), "predict.top_k": 3, "predict.explain": 2}
    settings["predict.out"] = str(tmp_path / "out.csv")
    found = pq.read_table(predict(config.changed(settings)) / "predictions.parquet")
    assert found.schema.names == [*PREDICTIONS.names, "explanation", "query_explanation"]
    assert found.schema.field("explanation").type == EXPLANATION
    *answered, refused = found["explanation"].to_pylist()
    assert refused is None
    assert all(1 <= len(reasons) <= 2 for reasons in answered)
    assert all(reason["text"] and reason["kind"] for reasons in answered for reason in reasons)
    written = csv.read_csv(tmp_path / "out.csv")["explanation"].to_pylist()
    assert [json.loads(text) for text in written[:3]] == answered
    assert "explanation" not in pq.read_schema(predict(config) / "predictions.parquet").names
