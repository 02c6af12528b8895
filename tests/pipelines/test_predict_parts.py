"""Predictions in parts: exactly one result set a query, whatever is killed, and the same as in one part."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.cloudpickle
import yaml
from graphs import graph_of, random_facts, tiny_config, write_graph
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import csv
from runs import train_run

from gam_kg.config import Config
from gam_kg.errors import ArtifactError, DataError, WorkerLostError
from gam_kg.workflow.prediction_file import PARTS, UNFINISHED
from pipelines import predict as predict_module
from pipelines import prediction_workers
from pipelines.predict import predict
from pipelines.prediction_parts import Part, Survey, divide, in_time_order
from pipelines.prediction_workers import Answerer, answer_on_actors

NUM_QUERIES = 23
GENERATOR = np.random.default_rng(0)
QUERIES = pa.table(
    {
        "subject": [f"entity {n}" for n in GENERATOR.integers(0, 10, NUM_QUERIES - 1)] + ["nobody"],
        "relation": [f"relation {n}" for n in GENERATOR.integers(0, 3, NUM_QUERIES)],
        "timestamp": pa.array(GENERATOR.integers(1, 12, NUM_QUERIES)),
        "note": [f"note {n}" if n % 3 else None for n in range(NUM_QUERIES)],
    }
)
SECONDS = 600


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_graph(folder / "graph", graph_of(random_facts(1, 150), buckets=3), buckets=3)
    train_run(folder, tiny_config(epochs=1))
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    return folder


@pytest.fixture
def new_run(trained, tmp_path):
    """A function that makes the configuration of a run of its own, with the queries in several files and row groups."""
    for name, rows in {"a": QUERIES.slice(0, 9), "b": QUERIES.slice(9, 0), "c": QUERIES.slice(9)}.items():
        (tmp_path / "queries").mkdir(exist_ok=True)
        pq.write_table(rows, tmp_path / "queries" / f"{name}.parquet", row_group_size=4)

    def make(name: str, **settings) -> Config:
        run = tmp_path / name
        run.mkdir(exist_ok=True)
        for artifact in ("graph", "checkpoint"):
            if not (run / artifact).exists():
                (run / artifact).symlink_to(trained / artifact)
        settings = {"queries": str(tmp_path / "queries"), "top_k": 3, "queries_per_file": 5} | settings
        values = tiny_config(epochs=1).model_dump() | {"run_dir": str(run), "predict": settings}
        return Config.model_validate(values)

    return make


@pytest.fixture
def expected(new_run):
    """The predictions that one process makes in one part."""
    return whole(predict(new_run("whole", queries_per_file=100_000)), 1)


def whole(version: Path, num_parts: int) -> pa.Table:
    """The table of all parts, each of which says how many there are."""
    paths = sorted(version.glob(PARTS))
    several = [f"predictions-{number:05d}-of-{num_parts:05d}.parquet" for number in range(num_parts)]
    assert [path.name for path in paths] == (several if num_parts > 1 else ["predictions.parquet"])
    return pa.concat_tables([pq.read_table(path) for path in paths]).combine_chunks()


def assert_same(found: pa.Table, expected: pa.Table) -> None:
    """Equal in all but the last bits of scores."""
    numbers = ["score", "probability"]
    for name in set(found.column_names) - set(numbers):
        assert found[name].to_pylist() == expected[name].to_pylist(), name
    assert found.schema.equals(expected.schema, check_metadata=True)
    for name in numbers:
        values = (table[name].to_numpy(zero_copy_only=False) for table in (found, expected))
        np.testing.assert_allclose(*values, rtol=1e-4)


@given(st.integers(1, 300), st.integers(1, 20_000_000), st.integers(1, 100))
def test_every_query_is_in_exactly_one_part_and_parts_follow_each_other(num_queries, num_answers, most):
    parts = divide(num_queries, num_answers, most)
    assert [query for part in parts for query in range(part.start, part.stop)] == list(range(num_queries))
    assert [part.number for part in parts] == list(range(len(parts)))
    assert sorted(part.name for part in parts) == [part.name for part in parts]
    assert len({part.name for part in parts}) == len(parts)
    assert all(1 <= part.stop - part.start <= most for part in parts)
    assert all((part.stop - part.start) * num_answers <= 5_000_000 or part.stop - part.start == 1 for part in parts)


@given(st.lists(st.lists(st.integers(0, 50), max_size=5), min_size=1, max_size=8))
def test_parts_are_answered_once_each_and_the_earliest_first(times):
    parts = divide(len(times), 1, 1)
    surveys = [Survey(Counter(), (), Counter(of_part)) for of_part in times]
    order = in_time_order(parts, surveys)
    assert sorted(part.number for part in order) == list(range(len(times)))
    first = [min(times[part.number], default=0) for part in order]
    assert first == sorted(first)


@pytest.mark.parametrize(("size", "num_parts"), [(1, 23), (5, 5), (22, 2), (23, 1)])
def test_parts_are_together_what_one_part_is(new_run, expected, size, num_parts):
    config = new_run("parts", queries_per_file=size)
    assert_same(whole(predict(config), num_parts), expected)
    assert sorted(set(expected["query_id"].to_pylist())) == list(range(NUM_QUERIES))
    assert set(expected["status"].to_pylist()) == {"answered", "unknown_name"}
    assert not (config.run_path / UNFINISHED).exists()


def test_text_tables_are_read_in_parts_too(new_run, expected, tmp_path):
    csv.write_csv(QUERIES, tmp_path / "queries.csv")
    config = new_run("text", queries=str(tmp_path / "queries.csv"))
    assert_same(whole(predict(config), 5).cast(expected.schema), expected)
    assert not (config.run_path / UNFINISHED).exists()


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_the_file_of_the_users_choice_has_all_parts(new_run, expected, tmp_path, ending):
    out = tmp_path / f"out.{ending}"
    predict(new_run("out", out=str(out)))
    if ending == "parquet":
        assert_same(pq.read_table(out).combine_chunks(), expected)
    else:
        columns = csv.ConvertOptions(strings_can_be_null=True, quoted_strings_can_be_null=False)
        found = csv.read_csv(out, convert_options=columns)
        for name in ("query_id", "answer", "novelty", "note"):
            assert found[name].to_pylist() == expected[name].to_pylist()


def test_what_comes_next_may_be_several_parts(new_run):
    settings = {"queries": None, "num_workers": 2}  # active pairs are never so many that Ray is started for them
    one, several = (predict(new_run(f"next {size}", queries_per_file=size, **settings)) for size in (1000, 2))
    expected = whole(one, 1)
    assert_same(whole(several, -(-len(set(expected["query_id"].to_pylist())) // 2)), expected)


def interrupted(config: Config, monkeypatch, after: int) -> None:
    """Begin predictions that are interrupted when some parts are written."""
    written = []

    def write_part(run, rows, part, *arguments):
        if len(written) == after:
            raise KeyboardInterrupt
        written.append(part.number)
        original(run, rows, part, *arguments)

    original = predict_module.write_part
    with monkeypatch.context() as patch:
        patch.setattr(predict_module, "write_part", write_part)
        with pytest.raises(KeyboardInterrupt):
            predict(config)


def recording(monkeypatch) -> list[int]:
    """The numbers of the parts that are written from now on."""
    written, original = [], predict_module.write_part

    def write_part(run, rows, part, *arguments):
        written.append(part.number)
        original(run, rows, part, *arguments)

    monkeypatch.setattr(predict_module, "write_part", write_part)
    return written


def test_an_interrupted_predict_goes_on_after_the_finished_parts(new_run, expected, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "gam_kg")
    config = new_run("interrupted")
    interrupted(config, monkeypatch, after=3)
    assert len(list((config.run_path / UNFINISHED).glob(f"*/{PARTS}"))) == 3
    assert not (config.run_path / "predictions").exists()
    written = recording(monkeypatch)
    assert_same(whole(predict(config), 5), expected)
    assert len(written) == 2
    assert "3 of 5 parts are finished already" in caplog.text
    assert not (config.run_path / UNFINISHED).exists()


def test_parts_that_were_all_finished_are_only_put_together(new_run, expected, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    config = new_run("all finished")
    with monkeypatch.context() as patch:
        patch.setattr(predict_module, "put_together", interrupt)
        with pytest.raises(KeyboardInterrupt):
            predict(config)
    written = recording(monkeypatch)
    assert_same(whole(predict(config), 5), expected)
    assert not written


def test_a_part_that_was_damaged_meanwhile_is_written_again(new_run, expected, monkeypatch):
    config = new_run("damaged")
    interrupted(config, monkeypatch, after=4)
    cut, swapped, *_ = sorted((config.run_path / UNFINISHED).glob(f"*/{PARTS}"))
    cut.write_bytes(cut.read_bytes()[:-20])
    pq.write_table(pq.read_table(swapped).slice(1), swapped)
    written = recording(monkeypatch)
    assert_same(whole(predict(config), 5), expected)
    assert len(written) == 3


@pytest.mark.parametrize("change", ["settings", "queries", "force"])
def test_parts_of_other_predictions_are_not_used(new_run, monkeypatch, change, tmp_path):
    config = new_run("other")
    interrupted(config, monkeypatch, after=3)
    if change == "settings":
        config = new_run("other", top_k=2)
    if change == "queries":
        table = QUERIES.slice(0, 9).set_column(1, "relation", pa.array(["relation 1"] * 9))
        pq.write_table(table, tmp_path / "queries" / "a.parquet")
    written = recording(monkeypatch)
    found = whole(predict(config, force=change == "force"), 5)
    assert sorted(written) == [0, 1, 2, 3, 4]
    again = config.predict.model_dump() | {"queries_per_file": 1000}
    assert_same(found, whole(predict(new_run("other whole", **again)), 1))


def test_queries_that_are_refused_leave_nothing_behind(new_run, tmp_path):
    pq.write_table(QUERIES.slice(NUM_QUERIES - 1), tmp_path / "bad.parquet")
    csv.write_csv(QUERIES, tmp_path / "queries.csv")
    for settings in ({"queries": str(tmp_path / "bad.parquet")}, {"queries": str(tmp_path / "queries.csv")}):
        config = new_run("refused", strict=True, **settings)
        with pytest.raises(DataError, match=r"row (0|22): unknown entity 'nobody'"):
            predict(config)
        assert sorted(path.name for path in config.run_path.iterdir()) == ["checkpoint", "graph"]


def test_the_first_rows_that_cannot_be_answered_are_named_over_parts_and_files(new_run, tmp_path):
    rows = ["entity 1", "nobody"] * 7
    table = pa.table({"subject": rows, "relation": ["relation 0"] * len(rows)})
    for name, part in {"a": table.slice(0, 3), "c": table.slice(3)}.items():
        pq.write_table(part, tmp_path / "queries" / f"{name}.parquet")
    (tmp_path / "queries" / "b.parquet").unlink()
    with pytest.raises(DataError) as error:
        predict(new_run("bad", strict=True, queries_per_file=2))
    lines = str(error.value).splitlines()
    assert lines[0].startswith("7 of the 14 queries cannot be answered")
    places = [line.partition(": ")[0].rpartition("/")[2] for line in lines[1:6]]
    assert places == ["a.parquet, row 1", "c.parquet, row 0", *(f"c.parquet, row {row}" for row in (2, 4, 6))]
    assert lines[6:] == ["  and 2 more"]


def start(config: Config) -> subprocess.Popen:
    """Predict in a process of its own."""
    file = config.run_path.parent / f"{config.run_path.name}.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines", "predict", str(file)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def killed(config: Config) -> None:
    """Predict, and kill the process when it has written some parts and not yet all."""
    process = start(config)
    ends = time.monotonic() + SECONDS
    while len(list((config.run_path / UNFINISHED).glob(f"*/{PARTS}"))) < 2:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < ends
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert not (config.run_path / "predictions" / "latest").exists()


def test_a_killed_process_is_gone_on_from(new_run, tmp_path, monkeypatch):
    many = pa.concat_tables([QUERIES] * 3)
    pq.write_table(many, tmp_path / "many.parquet")
    settings = {"queries": str(tmp_path / "many.parquet"), "queries_per_file": 1}
    config = new_run("killed", **settings)
    killed(config)
    written = recording(monkeypatch)
    found = whole(predict(config), len(many))
    assert 0 < len(written) < len(many) - 1
    assert_same(found, whole(predict(new_run("not killed", **settings | {"queries_per_file": 1000})), 1))
    assert not (config.run_path / UNFINISHED).exists()


class DiesOnce(Answerer):
    """An actor that is killed while it answers the third part, the first time."""

    def answer(self, part: Part) -> None:
        if part.number == 2 and not (self.folder / "died").exists():
            (self.folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        super().answer(part)


class DiesAlways(Answerer):
    """An actor that is killed by the third part."""

    def answer(self, part: Part) -> None:
        if part.number == 2:
            self._count_attempt(part)
            os.kill(os.getpid(), signal.SIGKILL)
        super().answer(part)


class Refuses(Answerer):
    """An actor that has an error for the user."""

    def answer(self, part: Part) -> None:
        if part.number == 3:
            raise ArtifactError("the run was replaced")
        super().answer(part)


@pytest.mark.ray
def test_actors_make_what_one_process_makes_also_where_one_is_killed(new_run, expected, local_ray, monkeypatch):
    monkeypatch.setattr(prediction_workers, "answer_on_actors", partial(answer_on_actors, answerer=DiesOnce))
    config = new_run("actors", num_workers=2)
    assert_same(whole(predict(config), 5), expected)
    assert not (config.run_path / UNFINISHED).exists()


@pytest.mark.ray
def test_an_error_of_an_actor_is_the_users_and_finished_parts_stay(new_run, expected, local_ray, monkeypatch):
    config = new_run("refused", num_workers=1)
    monkeypatch.setattr(prediction_workers, "answer_on_actors", partial(answer_on_actors, answerer=Refuses))
    with pytest.raises(ArtifactError, match=r"^the run was replaced$"):
        predict(config)
    left = len(list((config.run_path / UNFINISHED).glob(f"*/{PARTS}")))
    assert 0 < left < 5
    written = recording(monkeypatch)
    assert_same(whole(predict(new_run("refused", num_workers=0)), 5), expected)
    assert len(written) == 5 - left


@pytest.mark.ray
def test_a_part_that_kills_every_actor_is_named(new_run, local_ray, monkeypatch):
    config = new_run("lost", num_workers=1)
    config = config.model_copy(update={"train": config.train.model_copy(update={"max_failures": 0})})
    monkeypatch.setattr(prediction_workers, "answer_on_actors", partial(answer_on_actors, answerer=DiesAlways))
    with pytest.raises(
        WorkerLostError, match=r"predictions-00002-of-00005.*predict.num_workers or predict.queries_per"
    ):
        predict(config)
