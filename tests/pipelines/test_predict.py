"""The predict stage: files of queries in, predictions and a file of the user's choice out, and what is refused."""

import logging
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from graphs import graph_of, random_facts, tiny_config, write_graph
from pyarrow import csv
from runs import train_run

from gam_kg.config import Config
from gam_kg.errors import ConfigError, DataError, OutputError
from gam_kg.inference.search import query_answers
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.schemas import PREDICTIONS
from pipelines import predict as predict_module
from pipelines.predict import predict
from pipelines.search import Question, search

FACTS = random_facts(1, 150)
QUERIES = pa.table(
    {
        "subject": ["entity 1", None, "entity 2", "nobody"],
        "relation": ["relation 0", "relation 1", "relation 2", "relation 0"],
        "object": [None, "entity 3", "", None],
        "timestamp": pa.array([5, None, 20, 5], pa.int64()),
        "note": ["a, b", 'say "x"', None, "d"],
    }
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_graph(folder / "graph", graph_of(FACTS, buckets=3), buckets=3)
    train_run(folder, tiny_config(epochs=1))
    return folder


@pytest.fixture
def config(trained, tmp_path):
    """A run of its own, with the graph and the checkpoint of the trained one."""
    (tmp_path / "run").mkdir()
    for name in ("graph", "checkpoint"):
        (tmp_path / "run" / name).symlink_to(trained / name)
    return tiny_config(epochs=1).model_copy(update={"run_dir": str(tmp_path / "run")})


@pytest.fixture
def messages(caplog):
    caplog.set_level(logging.INFO, "gam_kg")
    return lambda: "\n".join(record.getMessage() for record in caplog.records)


def changed(config: Config, **changes) -> Config:
    return Config.model_validate(config.model_dump() | {"predict": config.predict.model_dump() | changes})


def predictions(config):
    return pq.read_table(predict(config) / "predictions.parquet")


def test_what_can_be_answered_is_and_the_rest_is_counted(config, tmp_path, messages):
    pq.write_table(QUERIES, tmp_path / "queries.parquet")
    found = predictions(changed(config, queries=str(tmp_path / "queries.parquet"), top_k=3))
    assert found.schema.names == [*PREDICTIONS.names, "note"]
    assert found["query_id"].to_pylist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert found["note"].to_pylist() == ["a, b"] * 3 + ['say "x"'] * 3 + [None] * 3 + ["d"]
    assert found["timestamp"].to_pylist()[::3] == ["5", "8", "20", "5"]
    assert found["status"].to_pylist() == ["answered"] * 9 + ["unknown_name"]
    assert "3 of 4 queries answered, 1 unknown_name" in messages()
    assert "more than one snapshot beyond the last fact (7): 1; the farthest is about 20, 13 beyond it" in messages()
    assert "answers to 1 of 3 queries lie beyond that, up to 13 snapshots after the last fact (7)" in messages()


def test_an_answer_beyond_the_longest_trained_horizon_says_that_it_extrapolates(config, messages):
    run = TrainedRun.load(config.run_path)
    assert run.trained_horizon == 4  # the training snapshots are 0 to 4
    query_answers(run, "entity 1", "relation 0", at=11)
    assert "extrapolate" not in messages()
    search(config.run_path, Question(subject="entity 1", relation="relation 0", at="12", top_k=3))
    assert (
        "warning: training looked ahead 4 snapshots at most (train.max_horizon); answers to 1 of 1 queries lie"
        in messages()
    )
    assert "beyond that, up to 5 snapshots after the last fact (7), and extrapolate" in messages()


def test_a_csv_file_gives_what_the_same_parquet_file_gives(config, tmp_path):
    pq.write_table(QUERIES, tmp_path / "queries.parquet")
    csv.write_csv(QUERIES, tmp_path / "queries.csv")
    text = (tmp_path / "queries.csv").read_text().replace(",", ";").replace("a; b", "a, b")
    (tmp_path / "other.csv").write_text(text, encoding="utf-16")
    expected = predictions(changed(config, queries=str(tmp_path / "queries.parquet")))
    for name in ("queries.csv", "other.csv"):
        found = predictions(changed(config, queries=str(tmp_path / name)))
        assert found.cast(expected.schema).equals(expected), name


def test_int96_timestamps_of_any_year_are_what_they_say(config, tmp_path):
    times = pa.array([5, None], pa.timestamp("us"))
    pq.write_table(
        QUERIES.slice(0, 2).set_column(3, "timestamp", times),
        tmp_path / "q.parquet",
        use_deprecated_int96_timestamps=True,
    )
    found = predictions(changed(config, queries=str(tmp_path / "q.parquet")))
    assert found["status"].to_pylist()[0] == "unreadable_timestamp", "this graph has integers"
    assert "1970-01-01 00:00:00.000005" in found["reason"].to_pylist()[0]


def test_several_files_are_one_table_and_must_agree(config, tmp_path):
    folder = tmp_path / "queries"
    folder.mkdir()
    pq.write_table(QUERIES.slice(0, 1), folder / "a.parquet")
    pq.write_table(QUERIES.slice(1), folder / "b.parquet")
    pq.write_table(QUERIES, tmp_path / "all.parquet")
    together = predictions(changed(config, queries=str(folder)))
    assert together.equals(predictions(changed(config, queries=str(tmp_path / "all.parquet"))))
    with pytest.raises(
        DataError, match=r"1 of the 4 queries cannot(.|\n)*b.parquet, row 2: unknown entity 'nobody' \(unknown_name\)"
    ):
        predict(changed(config, queries=str(folder), strict=True))
    pq.write_table(QUERIES.drop_columns(["timestamp"]), folder / "c.parquet")
    with pytest.raises(DataError, match=r"c.parquet has the columns .*; .*a.parquet has"):
        predict(changed(config, queries=str(folder)))


def test_a_column_that_is_there_twice_is_refused_in_any_file(config, tmp_path):
    folder = tmp_path / "queries"
    folder.mkdir()
    for name, order in (("a", [0, 1, 2, 3, 4, 4]), ("b", [4, 0, 1, 2, 3, 4])):
        columns, names = zip(*((QUERIES.columns[at], QUERIES.column_names[at]) for at in order), strict=True)
        pq.write_table(pa.table(list(columns), names=list(names)), folder / f"{name}.parquet")
    with pytest.raises(DataError, match="'note' is there twice"):
        predict(changed(config, queries=str(folder)))


def test_queries_of_which_none_can_be_answered_are_refused(config, tmp_path):
    pq.write_table(QUERIES.slice(3), tmp_path / "bad.parquet")
    pq.write_table(QUERIES.slice(4), tmp_path / "empty.parquet")
    with pytest.raises(
        DataError, match=r"none of the 1 queries can be answered.*\n.*bad.parquet, row 0: unknown entity"
    ):
        predict(changed(config, queries=str(tmp_path / "bad.parquet")))
    with pytest.raises(DataError, match="no rows"):
        predict(changed(config, queries=str(tmp_path / "empty.parquet")))
    assert not (config.run_path / "predictions").exists()


def test_by_default_the_next_facts_of_the_active_pairs_are_predicted(config, monkeypatch, messages):
    found = predictions(changed(config, top_k=2)).to_pandas()
    active = {(f"entity {s}", f"relation {r}") for s, r, _, t in FACTS.tolist() if t == 7}
    assert len(active) > 3
    assert set(zip(found["subject"], found["relation"], strict=True)) == active
    assert len(found) == 2 * len(active)
    assert set(found["timestamp"]) == {"8"}
    assert set(found["snapshots_beyond_last_fact"]) == {1}
    monkeypatch.setattr(predict_module, "_MOST_ACTIVE", 3)
    fewer = predictions(changed(config, top_k=1)).to_pandas()
    assert fewer["subject"].tolist() == found["subject"].tolist()[:6:2]
    assert f"what comes in 8, for the {len(active)} pairs of subject and relation with a fact in 7" in messages()
    assert "only for the first 3 of them" in messages()


@pytest.mark.parametrize("name", ["new/out.parquet", "new/out.csv"])
def test_predictions_are_also_written_where_the_user_says(config, tmp_path, name, messages):
    pq.write_table(QUERIES, tmp_path / "queries.parquet")
    out = tmp_path / name
    config = changed(config, queries=str(tmp_path / "queries.parquet"), out=str(out))
    for _ in range(2):  # the second time the artifact is up to date
        expected = predictions(config)
        if out.suffix == ".csv":
            types = {field.name: field.type for field in expected.schema}
            options = csv.ConvertOptions(column_types=types, strings_can_be_null=True, quoted_strings_can_be_null=False)
            assert csv.read_csv(out, convert_options=options).cast(expected.schema).equals(expected)
        else:
            assert pq.read_table(out).equals(expected)
        assert [path.name for path in out.parent.iterdir()] == [out.name]
        out.unlink()
    assert "up to date" in messages()


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("out.xlsx", r"\.parquet or \.csv"),
        ("folder.csv", "is a folder"),
        ("queries.parquet", "predict.queries=.* would read this file"),
        ("./run/../queries.parquet", "predict.queries=.* would read this file"),
        ("run/graph/out.csv", "inside an artifact"),
    ],
)
def test_places_that_predictions_must_not_go_are_refused_before_any_work(config, tmp_path, monkeypatch, out, message):
    pq.write_table(QUERIES, tmp_path / "queries.parquet")
    (tmp_path / "folder.csv").mkdir()
    monkeypatch.chdir(tmp_path)
    before = (tmp_path / "queries.parquet").read_bytes()
    with pytest.raises(ConfigError, match=message):
        predict(changed(config, queries=str(tmp_path / "queries.parquet"), out=out))
    assert (tmp_path / "queries.parquet").read_bytes() == before
    assert not (config.run_path / "predictions").exists()


def test_columns_that_csv_cannot_hold_are_named(config, tmp_path):
    table = QUERIES.append_column("tags", pa.array([["x"]] * 4))
    pq.write_table(table, tmp_path / "queries.parquet")
    with pytest.raises(OutputError, match=r"'tags' is list.*\.parquet"):
        predict(changed(config, queries=str(tmp_path / "queries.parquet"), out=str(tmp_path / "out.csv")))
    assert not (tmp_path / "out.csv").exists()


def test_a_home_folder_is_found(config, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    predict(changed(config, out="~/out.csv"))
    assert (tmp_path / "out.csv").exists()
    assert not os.path.exists("~")
